"""What may go wrong with the simulator's files of what it knows already."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ofatvm.errors import DeviceError


@contextmanager
def cache_errors(path: Path) -> Iterator[None]:
    """SQLite's errors about a cache of simulations as a DeviceError that names it."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise DeviceError(
            f"the simulator's cache {path} cannot be used ({error})",
            hint="delete it, it is made anew; or free some space",
        ) from None

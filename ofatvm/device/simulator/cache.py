"""The simulator's files of what it knows already: several processes may use one at once."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ofatvm.errors import DeviceError
from ofatvm.lock import BUSY_SECONDS, turn_to_open

NONSENSE = (ValueError, TypeError, AttributeError, RecursionError)
"""What reading a damaged row raises."""


@contextmanager
def opened(path: Path, table: str) -> Iterator[sqlite3.Connection]:
    """The SQLite file, made if it is not there, with a `table`: its name and columns.

    What was written is on disk at the end. DeviceError, which names the file, if it is damaged or
    cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as database:
            with turn_to_open(path):
                database.execute("pragma journal_mode=wal")
                database.execute("pragma synchronous=full")
                database.execute(f"create table if not exists {table}")
            with database:
                yield database
    except (sqlite3.DatabaseError, OSError) as error:
        raise DeviceError(
            f"the simulator's cache {path} cannot be used ({error})",
            hint="delete it, it is made anew; or free some space",
        ) from None


def checked(cycles: object) -> float:
    """Cycles that were read; ValueError if they are none."""
    if not isinstance(cycles, int | float) or not (math.isfinite(cycles) and cycles >= 0):
        raise ValueError(f"{cycles!r} cycles")
    return float(cycles)

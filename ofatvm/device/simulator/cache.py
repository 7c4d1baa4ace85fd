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


class CacheFile:
    """An SQLite file with one table, made where it is not there."""

    def __init__(self, path: Path, table: str) -> None:
        """`table`: its name and columns."""
        self.path, self.table = path, table
        self._made: tuple[int, int] | None = None

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """The file; what was written is on disk at the end.

        DeviceError, which names the file, if it is damaged or cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Only what makes a file needs a turn: one that was seen whole, and is still that one,
            # is not made again.
            known = self._made is not None and self._made == _identity(self.path)
            with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as database:
                if not known:
                    self._make(database)
                database.execute("pragma synchronous=full")
                with database:
                    yield database
        except (sqlite3.DatabaseError, OSError) as error:
            raise DeviceError(
                f"the simulator's cache {self.path} cannot be used ({error})",
                hint="delete it, it is made anew; or free some space",
            ) from None

    def _make(self, database: sqlite3.Connection) -> None:
        with turn_to_open(self.path):
            database.execute("pragma journal_mode=wal")
            database.execute(f"create table if not exists {self.table}")
        self._made = _identity(self.path)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one of its name; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def checked(cycles: object) -> float:
    """Cycles that were read; ValueError if they are none."""
    if not isinstance(cycles, int | float) or not (math.isfinite(cycles) and cycles >= 0):
        raise ValueError(f"{cycles!r} cycles")
    return float(cycles)

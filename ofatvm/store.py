"""The workspace's durable memory: measurements and run state in one SQLite file.

What a method that writes returned from is committed and on disk. Several processes may hold a
`Store` of the same workspace at once. A damaged or foreign file is reported and never touched.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from ofatvm.errors import BusyError, MeasurementError, OfatvmError, StoreError, UsageError
from ofatvm.lock import BUSY_SECONDS, LOCK, turn_to_open
from ofatvm.measurement import Measurement

FILE_NAME = "store.db"
SCHEMA_VERSION = 1
APPLICATION_ID = 0x4F464154  # "OFAT", so that a foreign SQLite file is recognised

COLUMNS = tuple(entry.name for entry in fields(Measurement))
JSON_COLUMNS = ("samples_ms", "versions")
NOT_ALLOWED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
FILTERS = ("target", "space", "threads", "kind", "source")

SCHEMA = f"""
CREATE TABLE measurements (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    arch TEXT NOT NULL,
    space TEXT NOT NULL,
    target TEXT NOT NULL,
    device TEXT NOT NULL,
    kind TEXT NOT NULL,
    threads INTEGER NOT NULL,
    source TEXT NOT NULL,
    latency_ms REAL,
    p90_ms REAL,
    ci_low_ms REAL,
    ci_high_ms REAL,
    samples_ms TEXT NOT NULL,
    unstable INTEGER NOT NULL,
    calibration_ratio REAL,
    library TEXT NOT NULL,
    versions TEXT NOT NULL,
    error TEXT NOT NULL,
    "when" TEXT NOT NULL,
    seed INTEGER
);
CREATE INDEX measurements_by_target ON measurements (target, space, threads);
CREATE TABLE state (
    run TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


@dataclass(frozen=True, slots=True)
class Holding:
    """How many measurements of one sort a store holds."""

    target: str
    space: str
    kind: str
    source: str
    threads: int
    count: int
    failed: int
    newest: str


class Store:
    """One workspace's SQLite file; use `Store.open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Wrap an open connection to a checked file."""
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, workspace: Path) -> Store:
        """Open the workspace's store, making folder and file when they are not there.

        Raises StoreError when the folder cannot be written, or the file is damaged, of another
        version, or not ofatvm's.
        """
        path = workspace / FILE_NAME
        try:
            workspace.mkdir(parents=True, exist_ok=True)
            with turn_to_open(path):
                return cls(path, _connect(path))
        except OSError as error:
            raise _folder_error(workspace, error) from error

    @classmethod
    def read(cls, workspace: Path) -> Store:
        """Open the workspace's store, which is there, to read it; nothing has to be writable.

        Raises StoreError as `open` does, and where it cannot even be read.
        """
        path = workspace / FILE_NAME
        needed = [workspace, path, path.with_suffix(LOCK)]
        if all(os.access(p, os.W_OK, effective_ids=True) for p in needed if p.exists()):
            return cls.open(workspace)
        return cls(path, _connect_read_only(path))

    def __enter__(self) -> Store:
        """The store itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; everything acknowledged is already in it."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add_measurement(self, measurement: Measurement) -> int:
        """Commit a measurement and return its id."""
        values = [_to_column(name, getattr(measurement, name)) for name in COLUMNS]
        names = ", ".join(f'"{name}"' for name in COLUMNS)
        marks = ", ".join("?" * len(COLUMNS))
        with _explained(self.path):
            cursor = self._connection.execute(
                f"INSERT INTO measurements ({names}) VALUES ({marks})", values
            )
        return int(cursor.lastrowid or 0)

    def measurements(
        self,
        *,
        target: str,
        space: str | None = None,
        threads: int | None = None,
        kind: str | None = None,
        source: str | None = None,
        after: int = 0,
    ) -> list[Measurement]:
        """The measurements of a target in the order they were added; None matches anything.

        Those up to the id `after` are left out.
        """
        wanted = dict(zip(FILTERS, (target, space, threads, kind, source), strict=True))
        wanted = {name: value for name, value in wanted.items() if value is not None}
        where = " AND ".join(["id > ?", *(f"{name} = ?" for name in wanted)])
        names = ", ".join(f'"{name}"' for name in COLUMNS)
        with _explained(self.path):
            rows = self._connection.execute(
                f"SELECT id, {names} FROM measurements WHERE {where} ORDER BY id",
                [after, *wanted.values()],
            ).fetchall()
        return [self._measurement(row[0], row[1:]) for row in rows]

    def newest(self) -> int:
        """The id of the measurement that was added last, 0 for none."""
        with _explained(self.path):
            row = self._connection.execute("SELECT max(id) FROM measurements").fetchone()
        return int(row[0] or 0)

    def _measurement(self, number: int, row: tuple[Any, ...]) -> Measurement:
        try:
            values = {
                name: _from_column(name, value) for name, value in zip(COLUMNS, row, strict=True)
            }
            return Measurement(**values)
        except (
            ValueError,
            TypeError,
            OverflowError,
            RecursionError,
            MeasurementError,
        ) as error:
            raise self._senseless(f"measurement {number}", str(error)) from error

    def holdings(self) -> list[Holding]:
        """What is held, one entry per target, space, kind, source and thread count."""
        with _explained(self.path):
            rows = self._connection.execute(
                "SELECT target, space, kind, source, threads, count(*), sum(error != ''), "
                'max("when") FROM measurements GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5'
            ).fetchall()
        for row in rows:
            if not all(isinstance(value, str) for value in (*row[:4], row[-1])):
                raise self._senseless("a measurement", f"it is of {row[:4]!r}")
        return [Holding(*row) for row in rows]

    def put_state(self, run: str, key: str, value: Any) -> None:
        """Commit a value, bytes or anything JSON can hold, over what the key held before."""
        # One mark byte tells bytes from JSON.
        stored = b"b" + value if isinstance(value, bytes) else b"j" + _to_json(value).encode()
        with _explained(self.path):
            self._connection.execute(
                "INSERT INTO state (run, key, value) VALUES (?, ?, ?) "
                "ON CONFLICT (run, key) DO UPDATE SET value = excluded.value",
                (run, key, stored),
            )

    def get_state(self, run: str, key: str, default: Any = None) -> Any:
        """The value a key holds, or `default`; JSON turns tuples into lists."""
        with _explained(self.path):
            row = self._connection.execute(
                "SELECT value FROM state WHERE run = ? AND key = ?", (run, key)
            ).fetchone()
        if row is None:
            return default
        (stored,) = row
        try:
            return stored[1:] if stored[:1] == b"b" else json.loads(bytes(stored[1:]))
        except (ValueError, TypeError, RecursionError) as error:
            raise self._senseless(f"the value of {key!r} of {run!r}", str(error)) from None

    def delete_run(self, run: str) -> None:
        """Forget all state of a run; measurements stay."""
        with _explained(self.path):
            self._connection.execute("DELETE FROM state WHERE run = ?", (run,))

    def runs(self) -> list[str]:
        """The runs that have state, sorted."""
        with _explained(self.path):
            rows = self._connection.execute("SELECT DISTINCT run FROM state ORDER BY run")
            found = [row[0] for row in rows]
        if not all(isinstance(run, str) for run in found):
            raise self._senseless("a run", "its name is no text")
        return found

    def _senseless(self, what: str, why: str) -> StoreError:
        return StoreError(
            f"{what} in {self.path} makes no sense: {why}",
            hint="move the file away; a new one is made",
        )


def _connect(path: Path) -> sqlite3.Connection:
    _check_files(path)
    with _explained(path):
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        with _explained(path):
            _prepare(path, connection)
    except OfatvmError:
        connection.close()
        raise
    return connection


def _check_files(path: Path) -> None:
    """StoreError if the store or what SQLite keeps beside it is there and no ordinary file.

    SQLite would wait for a pipe for ever.
    """
    for suffix in ("", "-journal", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.exists() and not file.is_file():
            raise StoreError(f"{file} is no ordinary file", hint="move it away")


def _connect_read_only(path: Path) -> sqlite3.Connection:
    # SQLite reads what is still in the WAL only with the index beside it. Without either of them
    # nobody writes, and the file is all there is.
    beside = [path.with_name(f"{path.name}-{suffix}") for suffix in ("wal", "shm")]
    how = "mode=ro" if any(map(os.path.exists, beside)) else "immutable=1"
    address = f"file:{quote(bytes(path.absolute()))}?{how}"
    _check_files(path)
    with _explained(path, reading=True):
        connection = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        with _explained(path, reading=True):
            _check(path, connection)
    except OfatvmError:
        connection.close()
        raise
    return connection


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    """Make the file ours, if it is new; it is checked before anything is written to it."""
    new = _check(path, connection)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if new:
        connection.executescript(f"BEGIN EXCLUSIVE; {SCHEMA} COMMIT;")


def _check(path: Path, connection: sqlite3.Connection) -> bool:
    """StoreError unless the file is sound and ours, or new: whether it is."""
    version = _pragma(connection, "user_version")
    owner = _pragma(connection, "application_id")
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    new: bool = tables == version == owner == 0
    if not new and owner != APPLICATION_ID:
        raise StoreError(
            f"{path} is an SQLite file of another program",
            hint="choose another --workspace, or move the file away",
        )
    if not new and version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema {version}, this ofatvm reads {SCHEMA_VERSION}",
            hint="use the ofatvm that wrote it, or choose another --workspace",
        )
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise _damaged(path, str(problem).replace("\n", " "))
    return new


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


@contextlib.contextmanager
def _explained(path: Path, *, reading: bool = False) -> Iterator[None]:
    """Turn SQLite's errors into ours, naming the file and the way out."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        if reading and _code(error) in NOT_ALLOWED:
            raise StoreError(
                f"cannot read {path} ({error})",
                hint="get the permission, or copy the workspace to where you may write",
            ) from error
        raise explain(path, error) from error


def _code(error: sqlite3.DatabaseError) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF


def explain(path: Path, error: sqlite3.DatabaseError) -> OfatvmError:
    """Our error for one of SQLite's."""
    code = _code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BusyError(
            f"another process has kept {path} locked for {BUSY_SECONDS:.0f} s",
            hint="wait for it to end, or choose another --workspace",
        )
    if code == sqlite3.SQLITE_FULL:
        return OfatvmError(f"no space left on the disk of {path}", hint="free some and try again")
    if code in NOT_ALLOWED:
        return StoreError(
            f"cannot write {path} ({error})", hint="choose a --workspace that can be written"
        )
    if code == sqlite3.SQLITE_IOERR:
        return StoreError(f"the disk of {path} does not work ({error})", hint="check the disk")
    return _damaged(path, str(error))


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path} is damaged ({reason})",
        hint=f"move it away (mv {path} {path}.damaged) and run the command again; "
        "sqlite3's .recover may save its measurements",
    )


def _folder_error(workspace: Path, error: OSError) -> OfatvmError:
    if error.errno == errno.ENOSPC:
        return OfatvmError(f"no space left on the disk of {workspace}", hint="free some")
    return StoreError(
        f"cannot use the workspace {workspace} ({error.strerror or error})",
        hint="choose a --workspace folder that can be written",
    )


def _to_json(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"run state must be bytes or plain JSON: {error}") from error


def _to_column(name: str, value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if name in JSON_COLUMNS else value


def _from_column(name: str, value: Any) -> Any:
    if name == "samples_ms":
        return tuple(json.loads(value))
    if name == "versions":
        return json.loads(value)
    return bool(value) if name == "unstable" else value

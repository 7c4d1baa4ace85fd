"""One writer for a folder, and one opener at a time for a file."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ofatvm.errors import BusyError

LOCK = ".lock"
BUSY_SECONDS = 60.0


def lock_folder(folder: Path, doing: str) -> IO[Any]:
    """An open file whose closing gives the folder back; BusyError if another process has it.

    `doing` is what the other process then does there, as in "tuning into".
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _opened(folder / LOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise BusyError(
            f"another process is {doing} {folder}", hint="wait for it, or stop it"
        ) from None
    return lock


@contextmanager
def turn_to_open(path: Path) -> Iterator[None]:
    """Open an SQLite file in this block: processes do so one after another.

    SQLite's switch to WAL does not wait for other processes. BusyError after a minute.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    with _opened(path.with_suffix(LOCK)) as turn:
        while True:
            try:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BusyError(
                        f"another process has kept {path} locked for {BUSY_SECONDS:.0f} s",
                        hint="wait for it to end, or stop it",
                    ) from None
                time.sleep(0.005)
        yield


def _opened(path: Path) -> IO[Any]:
    """The file, made if it is not there; a pipe of that name is an OSError and not waited for."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK
    return os.fdopen(os.open(path, flags, 0o666), "wb", buffering=0)

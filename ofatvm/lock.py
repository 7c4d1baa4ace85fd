"""One writer for a folder."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO, Any

from ofatvm.errors import BusyError

LOCK = ".lock"


def lock_folder(folder: Path, doing: str) -> IO[Any]:
    """An open file whose closing gives the folder back; BusyError if another process has it.

    `doing` is what the other process then does there, as in "tuning into".
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / LOCK).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise BusyError(
            f"another process is {doing} {folder}", hint="wait for it, or stop it"
        ) from None
    return lock

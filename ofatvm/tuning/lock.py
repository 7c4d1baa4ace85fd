"""One writer for a folder of records."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO, Any

from ofatvm.errors import BusyError


def lock_folder(folder: Path) -> IO[Any]:
    """An open file whose closing gives the folder back; BusyError if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise BusyError(
            f"another process is tuning into {folder}", hint="wait for it, or stop it"
        ) from None
    return lock

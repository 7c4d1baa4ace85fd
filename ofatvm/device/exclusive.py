"""One process at a time measures on a machine."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from ofatvm.errors import BusyError


class MeasuringLock:
    """The machine-wide lock of whatever takes times: programs, kernels, tuning candidates."""

    def __init__(self) -> None:
        """Not taken yet."""
        self._file: int | None = None

    def take(self) -> None:
        """BusyError if another process, or another holder in this one, is measuring."""
        lock = _opened(Path(tempfile.gettempdir()) / "ofatvm-measuring.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise BusyError(
                "another ofatvm process is measuring on this machine", hint="wait for it to end"
            ) from None
        self._file = lock

    def give_back(self) -> None:
        """Let others measure; no harm if it was not taken."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _opened(path: Path) -> int:
    try:
        # Without O_CREAT, which Linux refuses for another user's file in a shared folder.
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)

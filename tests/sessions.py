"""Processes that a test started in a session of their own, and what they started."""

from __future__ import annotations

import time
from pathlib import Path

PATIENCE_S = 200.0


def wait_until_all_left(session: int) -> None:
    """Until no process of a session is there any more."""
    deadline = time.monotonic() + PATIENCE_S
    while is_anyone_left(session):
        assert time.monotonic() < deadline, "workers outlive the run they belong to"
        time.sleep(0.05)


def is_anyone_left(session: int) -> bool:
    """Whether a process of a session is there."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(words[3]) == session and words[0] != "Z":
            return True
    return False

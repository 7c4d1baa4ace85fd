"""Whether a process whose time was over had spent it computing, or was kept from its work.

What hangs once hangs again, so that to try it once more costs its whole time once more. What was
stopped, by Ctrl-Z say, or had no core to run on, may well come to an end the next time.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SHARE = 0.8
"""How much of its time limit a thread must have computed for a hang to be proved.

A thread computes for at most as long as time passes, so that nothing kept one that computed so much
of the limit for longer than the rest of it. Threads are not added up: TVM's wait for each other
spinning, and two of them would fill a limit in half of it. A candidate that waits for ever, as for
a lock, proves nothing in this way and is done once more.
"""


class HungError(TimeoutError):
    """The time is over, and it was spent computing: doing it again would end the same."""


class Work:
    """What a process computes from now on."""

    def __init__(self, process: int) -> None:
        """`process` is its id."""
        self._process = process
        self._before = _seconds(process)

    def fills(self, limit_s: float) -> bool:
        """Whether one thread has computed for nearly `limit_s`; ask before the process is ended."""
        return any(
            seconds - self._before.get(thread, 0.0) >= SHARE * limit_s
            for thread, seconds in _seconds(self._process).items()
        )


def _seconds(process: int) -> dict[str, float]:
    """CPU seconds of each thread; those that have ended, or are those of nobody, are missing."""
    found: dict[str, float] = {}
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (thread / "stat").read_text(errors="replace").rpartition(")")[2].split()
                ticks = int(fields[11]) + int(fields[12])
                found[thread.name] = ticks / os.sysconf("SC_CLK_TCK")
    return found

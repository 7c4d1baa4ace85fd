"""Signals between processes: ending with a parent, and keeping interrupts away for a while."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

HELD = (signal.SIGINT, signal.SIGTERM)
PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Let this process be killed when `parent`, which started it, ends, however it does (Linux).

    To be exact, when that one's thread ends that started it. If it has ended already, so does this.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def block_interrupts() -> None:
    """Let this thread and the processes that it starts never see an interrupt.

    A terminal's Ctrl-C goes to all processes of a command. The one that people started ends the
    others, which must not die before it knows why.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Start processes in this block that never see an interrupt; this one sees it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


NOT_STARTED = 127
_LAUNCH = """
import ctypes, os, sys
ctypes.CDLL(None).prctl({number}, {signal})
if os.getppid() == {parent}:
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        print(f"{{sys.argv[1]}}: {{error.strerror}}", file=sys.stderr)
        sys.exit({not_started})
"""


def ending_with_parent(words: Sequence[str]) -> list[str]:
    """The words that start a program of any kind so that it is killed when this process ends.

    For what takes long: it costs some hundredths of a second. What does not start ends with
    NOT_STARTED, as in a shell, and says why.
    """
    launch = _LAUNCH.format(
        number=PR_SET_PDEATHSIG,
        signal=int(signal.SIGKILL),
        parent=os.getpid(),
        not_started=NOT_STARTED,
    )
    return [sys.executable, "-I", "-S", "-c", launch, *words]


@contextmanager
def held_back() -> Iterator[None]:
    """Let an interrupt or a request to end wait until the block is left; main thread only.

    TVM runs Python's handlers in its callbacks, and makes what they raise an error of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []
    before = {number: signal.signal(number, lambda got, _: seen.append(got)) for number in HELD}
    try:
        yield
    finally:
        for held, handler in before.items():
            signal.signal(held, handler)
        for number in seen[:1]:
            signal.raise_signal(number)

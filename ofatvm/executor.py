"""Processes that work for this one: an interrupt does not reach them, and they end at once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from ofatvm.signals import end_with_parent, held_back, interrupts_blocked


class ChildExecutor(ProcessPoolExecutor):
    """One process per core at most; those that are needed start with the jobs.

    As a context manager it waits for nothing: who wants a result has asked for it before.
    """

    def __init__(
        self, most: int = 1024, *, initialise: Callable[..., None] | None = None, given: Any = ()
    ) -> None:
        """At most `most` processes, each of which calls `initialise(*given)` first."""
        super().__init__(
            min(len(os.sched_getaffinity(0)), most),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(os.getpid(), initialise, given),
        )

    def submit(self, function: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        """See `Executor.submit`; this is where processes start."""
        with interrupts_blocked():
            return super().submit(function, *given, **named)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes, whatever they are doing: one that is stuck is not waited for."""
        with held_back():
            children = list((self._processes or {}).values())
            thread: Any = self._executor_manager_thread
            self.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.kill()
            if thread is not None:
                thread.join()


def end_threads(threads: ThreadPoolExecutor, end_processes: Callable[[], None]) -> None:
    """End threads that wait for processes: `end_processes` is called until all have noticed.

    More than once, since a thread may be starting a process just now.
    """
    with held_back():
        threads.shutdown(wait=False, cancel_futures=True)
        waiting = list(threads._threads)
        while True:
            end_processes()
            waiting = [thread for thread in waiting if thread.is_alive()]
            if not waiting:
                break
            waiting[0].join(0.05)


def _begin(parent: int, initialise: Callable[..., None] | None, given: Any) -> None:
    end_with_parent(parent)
    if initialise is not None:
        initialise(*given)

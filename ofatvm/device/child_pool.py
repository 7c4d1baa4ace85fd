"""A pool of child processes that an interrupt does not reach, and that ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tvm.support.popen_pool import PopenPoolExecutor, PopenWorker, kill_child_processes

from ofatvm.device.children import LOST, KilledError
from ofatvm.errors import OfatvmError
from ofatvm.executor import end_threads
from ofatvm.hang import HungError, Work
from ofatvm.signals import block_interrupts, end_with_parent

START_S = 180.0
"""How long a process may take to start: it loads TVM."""
GRACE_S = 10.0
"""How long after the end of its time a process may take to say so: it keeps the time itself."""


class ChildPool(PopenPoolExecutor):
    """TVM's pool, whose jobs get a second child and that has another end; see `child_pool`."""

    def __init__(
        self, max_workers: int, *, initializer: Callable[..., None], initargs: Any, **options: Any
    ) -> None:
        """Options are those of TVM's pool."""
        given = (os.getpid(), initializer, initargs)
        super().__init__(max_workers, initializer=_begin, initargs=given, **options)
        # The pool's threads start the processes.
        self._threadpool = ThreadPoolExecutor(max_workers, initializer=block_interrupts)
        self._closing = False

    def shutdown(self, wait: bool = True) -> None:
        """End the processes and all that these started.

        TVM's own way does every job that was submitted, waits for ever for a process that does not
        answer, and fails where one of its threads starts a process again meanwhile.
        """
        self._closing = True
        end_threads(self._threadpool, self._end_processes)
        super().shutdown(wait)

    def _worker_run(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Have one of the processes do a job; runs in a thread of its own for each of them."""
        worker = self._worker_map.get(threading.get_ident())
        if worker is None:
            options = self._initializer, self._initargs, self._maximum_process_uses
            worker = _Child(*options, self._stdout, self._stderr)
            self._worker_map[threading.get_ident()] = worker
        try:
            return worker.ask((fn, args, kwargs), self._timeout)
        except HungError:
            raise
        except (TimeoutError, *LOST):
            if self._closing:
                raise ChildProcessError("the pool is closed") from None
        worker.kill()
        return worker.ask((fn, args, kwargs), self._timeout)

    def _end_processes(self) -> None:
        for worker in list(self._worker_map.values()):
            _end(worker._proc)


@dataclass(frozen=True, slots=True)
class _Raised:
    """An error of ours: TVM's processes hand on no hint, and the text of the whole trace."""

    kind: type[OfatvmError]
    message: str
    hint: str


def _begin(parent: int, initialise: Callable[..., None], given: Any) -> None:
    """What a process of the pool does first: whatever it is doing, it ends with this one."""
    end_with_parent(parent)
    initialise(*given)


def _answer(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What a job gives; runs in a process of the pool."""
    try:
        return function(*args, **kwargs)
    except OfatvmError as error:
        return _Raised(type(error), error.message, error.hint)


class _Child(PopenWorker):
    """A process of which it is said how it was lost: killed, hung, kept from its work, crashed."""

    def __init__(self, *options: Any) -> None:
        """Options are those of TVM's worker."""
        self._work: tuple[Work, float] | None = None
        self._hung = False
        super().__init__(*options)

    def ask(self, job: tuple[Any, ...], limit_s: float) -> Any:
        """What a job gives; TimeoutError, HungError if that is proved, or one of `LOST`.

        A process keeps the time itself. One that cannot even do that, as it was stopped or never
        lets go of Python's lock, is ended from here.
        """
        starts = not self.is_alive() or self._remaining_uses == 0
        overdue = threading.Event()
        longest_s = limit_s + GRACE_S + (START_S if starts else 0.0)
        guard = threading.Timer(longest_s, self._end_overdue, (overdue,))
        guard.daemon = True
        guard.start()
        self._hung = False
        try:
            self.send(_answer, job, timeout=limit_s)
            if self._proc is not None:
                self._work = Work(self._proc.pid), limit_s
            answer = self.recv()
        except (TimeoutError, *LOST) as error:
            if not (isinstance(error, TimeoutError) or overdue.is_set()):
                raise
            raise HungError if self._hung else TimeoutError from None
        finally:
            guard.cancel()
            self._work = None
        if isinstance(answer, _Raised):
            raise answer.kind(answer.message, hint=answer.hint)
        return answer

    def kill(self) -> None:
        """End the process and those that it started."""
        self._look()
        super().kill()

    def _end_overdue(self, overdue: threading.Event) -> None:
        overdue.set()
        self._look()
        _end(self._proc)

    def _look(self) -> None:
        """Note, while the process is there, whether it has computed all the time."""
        if self._work is not None:
            work, limit_s = self._work
            self._hung = self._hung or work.fills(limit_s)

    def _child_process_error(self) -> ChildProcessError:
        process = self._proc
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10.0)  # it hangs up shortly before it is gone
            if process.poll() == -signal.SIGKILL:
                self.kill()
                return KilledError("killed")
        error: ChildProcessError = super()._child_process_error()
        return error


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGSTOP)  # it starts no more
    kill_child_processes(process.pid)
    process.kill()
    process.wait()

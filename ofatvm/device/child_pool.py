"""A pool of child processes that an interrupt does not reach, and that ends at once."""

from __future__ import annotations

import contextlib
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
from ofatvm.signals import block_interrupts


class ChildPool(PopenPoolExecutor):
    """TVM's pool, whose jobs get a second child and that has another end; see `child_pool`."""

    def __init__(self, max_workers: int, **options: Any) -> None:
        """Options are those of TVM's pool."""
        super().__init__(max_workers, **options)
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
        with contextlib.suppress(TimeoutError, *LOST):
            return self._asked(worker, fn, args, kwargs)
        if self._closing:
            raise ChildProcessError("the pool is closed")
        worker.kill()
        return self._asked(worker, fn, args, kwargs)

    def _asked(self, worker: PopenWorker, *job: Any) -> Any:
        worker.send(_answer, job, timeout=self._timeout)
        answer = worker.recv()
        if isinstance(answer, _Raised):
            raise answer.kind(answer.message, hint=answer.hint)
        return answer

    def _end_processes(self) -> None:
        for worker in list(self._worker_map.values()):
            _end(worker._proc)


@dataclass(frozen=True, slots=True)
class _Raised:
    """An error of ours: TVM's processes hand on no hint, and the text of the whole trace."""

    kind: type[OfatvmError]
    message: str
    hint: str


def _answer(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What a job gives; runs in a process of the pool."""
    try:
        return function(*args, **kwargs)
    except OfatvmError as error:
        return _Raised(type(error), error.message, error.hint)


class _Child(PopenWorker):
    """A process of which it is said whether it was killed."""

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

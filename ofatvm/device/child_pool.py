"""A pool of child processes that an interrupt does not reach, and that ends at once."""

from __future__ import annotations

import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tvm.support.popen_pool import PopenPoolExecutor, kill_child_processes

from ofatvm.executor import end_threads
from ofatvm.signals import block_interrupts


class ChildPool(PopenPoolExecutor):
    """TVM's pool with another end; see `children.child_pool`."""

    def __init__(self, max_workers: int, **options: Any) -> None:
        """Options are those of TVM's pool."""
        super().__init__(max_workers, **options)
        # The pool's threads start the processes.
        self._threadpool = ThreadPoolExecutor(max_workers, initializer=block_interrupts)

    def shutdown(self, wait: bool = True) -> None:
        """End the processes and all that these started.

        TVM's own way does every job that was submitted, waits for ever for a process that does not
        answer, and fails where one of its threads starts a process again meanwhile.
        """
        end_threads(self._threadpool, self._end_processes)
        super().shutdown(wait)

    def _end_processes(self) -> None:
        for worker in list(self._worker_map.values()):
            _end(worker._proc)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGSTOP)  # it starts no more
    kill_child_processes(process.pid)
    process.kill()
    process.wait()

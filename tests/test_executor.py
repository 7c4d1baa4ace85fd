from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest

from ofatvm.executor import ChildExecutor

PATIENCE_S = 120.0


def interrupt_itself() -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return os.getpid()


def is_gone(process: int) -> bool:
    return not os.path.exists(f"/proc/{process}")


def test_an_interrupt_does_not_reach_the_processes() -> None:
    with ChildExecutor(1) as executor:
        assert executor.submit(interrupt_itself).result() == executor.submit(os.getpid).result()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_the_end_waits_for_no_process_and_no_job() -> None:
    with ChildExecutor(1) as executor:
        process = executor.submit(os.getpid).result()
        jobs: list[Future[None]] = [executor.submit(time.sleep, 3600) for _ in range(9)]
        os.kill(process, signal.SIGSTOP)
    assert is_gone(process)
    assert all(job.done() for job in jobs)


def test_what_a_dead_process_worked_on_is_broken() -> None:
    with ChildExecutor(1) as executor:
        process = executor.submit(os.getpid).result()
        job = executor.submit(time.sleep, 3600)
        os.kill(process, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            job.result(PATIENCE_S)

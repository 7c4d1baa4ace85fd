from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from ofatvm import hang
from ofatvm.hang import Work


@pytest.mark.parametrize(("code", "computes"), [("while True: pass", True), ("input()", False)])
def test_only_computing_proves_a_hang(code: str, computes: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        time.sleep(0.5)  # starting is over
        work = Work(process.pid)
        deadline = time.monotonic() + (60.0 if computes else 1.0)
        while not work.fills(0.5) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert work.fills(0.5) == computes
        assert not work.fills(3600.0)
    finally:
        process.kill()
        process.communicate()


def test_threads_are_not_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([{"1": 5.0}, {"1": 11.0, "2": 6.0, "3": 6.0}])
    monkeypatch.setattr(hang, "_seconds", lambda process: next(seen))
    assert not Work(os.getpid()).fills(10.0)


def test_a_process_that_is_gone_proves_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not Work(process.pid).fills(0.1)

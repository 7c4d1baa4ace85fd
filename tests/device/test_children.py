from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from ofatvm import hang
from ofatvm.device import child_pool as pools
from ofatvm.device.children import child_pool, last_line, outcome, set_threads
from ofatvm.errors import CompileError, DeviceError, MissingInputError

TRACE = "Traceback (most recent call last):\n  File, line 1\n"


def failed(error: Exception) -> Future[None]:
    job: Future[None] = Future()
    job.set_exception(error)
    return job


def test_a_result_is_handed_on() -> None:
    job: Future[int] = Future()
    job.set_result(7)
    assert outcome(job, "run") == (7, "")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "run: took too long and was killed"),
        (ChildProcessError("Subprocess terminated"), "run: the worker process died"),
        (ValueError(f"{TRACE}ValueError: no such loop\n\n"), "run: ValueError: no such loop"),
        (RuntimeError(""), "run: RuntimeError"),
    ],
    ids=["hang", "crash", "trace", "silence"],
)
def test_a_candidates_fault_is_one_line(error: Exception, said: str) -> None:
    assert outcome(failed(error), "run") == (None, said)


def lacks_a_linker() -> None:
    raise MissingInputError("no ld found", hint="install one")


def test_what_is_no_candidates_fault_is_raised() -> None:
    pool = child_pool(set_threads, 1, timeout_s=60.0)
    try:
        with pytest.raises(MissingInputError, match=r"^no ld found$") as lacks:
            outcome(pool.submit(lacks_a_linker), "build")
        assert lacks.value.hint == "install one"
    finally:
        pool.shutdown()
    with pytest.raises(CompileError, match="No space left") as caught:
        outcome(failed(OSError(28, "No space left on device")), "build")
    assert caught.value.hint


def test_a_long_line_is_cut() -> None:
    assert len(last_line(ValueError("x" * 1000))) == 160


def test_children_know_their_number_of_threads() -> None:
    pool = child_pool(set_threads, 3, timeout_s=60.0)
    try:
        assert pool.submit(os.getenv, "TVM_NUM_THREADS").result() == "3"
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "3"
    finally:
        pool.shutdown()


def interrupt_itself() -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return os.getpid()


def start_and_wait(path: str) -> None:
    """Start another process, say which, and hang."""
    started = subprocess.Popen(["sleep", "3600"])
    Path(path).write_text(f"{os.getpid()} {started.pid} ")
    started.wait()


def is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_interrupt_does_not_reach_children() -> None:
    pool = child_pool(set_threads, 1, timeout_s=60.0)
    try:
        assert pool.submit(interrupt_itself).result() == pool.submit(os.getpid).result()
    finally:
        pool.shutdown()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_pool_ends_with_all_that_its_children_started(tmp_path: Path, stopped: bool) -> None:
    pool = child_pool(set_threads, 1, timeout_s=3600.0, children=2)
    said = tmp_path / "first", tmp_path / "second"
    jobs = [pool.submit(start_and_wait, str(path)) for path in (*said, *said, *said)]
    deadline = time.monotonic() + 120.0
    while not all(path.exists() and path.read_text().endswith(" ") for path in said):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes = [int(number) for path in said for number in path.read_text().split()]
    assert all(map(is_there, processes))
    if stopped:
        os.kill(processes[0], signal.SIGSTOP)
    pool.shutdown()
    assert all(job.done() for job in jobs)
    assert not any(map(is_there, processes))


def dies(flag: str, number: int, once: bool) -> str:
    if not (once and os.path.exists(flag)):
        Path(flag).touch()
        os.kill(os.getpid(), number)
    return "done"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_job_of_a_child_that_died_is_done_again(tmp_path: Path, number: int) -> None:
    pool = child_pool(set_threads, 1, timeout_s=60.0)
    try:
        job = pool.submit(dies, str(tmp_path / "flag"), number, True)
        assert outcome(job, "run") == ("done", "")
    finally:
        pool.shutdown()


def hangs(flag: str, once: bool) -> str:
    if not (once and os.path.exists(flag)):
        Path(flag).touch()
        time.sleep(3600)
    return "done"


def test_the_job_of_a_child_whose_time_was_over_is_done_again(tmp_path: Path) -> None:
    pool = child_pool(set_threads, 1, timeout_s=2.0)
    flag = str(tmp_path / "flag")
    try:
        assert outcome(pool.submit(hangs, flag, True), "run") == ("done", "")
        hanging = pool.submit(hangs, flag, False)
        assert outcome(hanging, "run") == (None, "run: took too long and was killed")
    finally:
        pool.shutdown()


def computes_for_ever(path: str) -> None:
    """Say that it was begun, and never come to an end."""
    with open(path, "a") as file:
        file.write("begun ")
    while True:
        pass


def test_a_job_that_provably_hangs_costs_its_time_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "SHARE", 0.05)  # other tests want the cores, too
    pool = child_pool(set_threads, 1, timeout_s=3.0)
    said = tmp_path / "said"
    try:
        hanging = pool.submit(computes_for_ever, str(said))
        assert outcome(hanging, "run") == (None, "run: took too long and was killed")
        assert said.read_text() == "begun "
    finally:
        pool.shutdown()


def stops_itself(flag: str, once: bool) -> str:
    if not (once and os.path.exists(flag)):
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return "done"


def test_a_child_that_was_stopped_for_ever_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "GRACE_S", 1.0)
    pool = child_pool(set_threads, 1, timeout_s=1.0)
    flag = str(tmp_path / "flag")
    try:
        pool.submit(os.getpid).result()  # what is not yet started may take its time
        assert outcome(pool.submit(stops_itself, flag, True), "run") == ("done", "")
    finally:
        pool.shutdown()


PARENT = """
import sys
from tests.device.test_children import child_pool, set_threads, start_and_wait

if __name__ == "__main__":
    child_pool(set_threads, 1, timeout_s=3600.0).submit(start_and_wait, sys.argv[1]).result()
"""


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    said = tmp_path / "said"
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(said)], cwd=root)
    deadline = time.monotonic() + 120.0
    while not (said.exists() and said.read_text().endswith(" ")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child, below = map(int, said.read_text().split())
    parent.kill()
    parent.wait()
    while is_there(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(below, signal.SIGKILL)  # started without `ending_with_parent`


def test_a_child_that_is_always_killed_is_no_candidates_fault(tmp_path: Path) -> None:
    pool = child_pool(set_threads, 1, timeout_s=60.0)
    flag = str(tmp_path / "flag")
    try:
        with pytest.raises(DeviceError, match="was killed, twice") as caught:
            outcome(pool.submit(dies, flag, signal.SIGKILL, False), "build")
        assert "memory" in caught.value.hint
        crashed = pool.submit(dies, flag, signal.SIGSEGV, False)
        assert outcome(crashed, "build") == (None, "build: the worker process died")
    finally:
        pool.shutdown()


def test_a_pool_whose_children_died_ends() -> None:
    pool = child_pool(set_threads, 1, timeout_s=60.0)
    os.kill(pool.submit(os.getpid).result(), signal.SIGKILL)
    for _ in range(5):
        pool.submit(time.sleep, 3600)
    pool.shutdown()

from __future__ import annotations

import os
from concurrent.futures import Future

import pytest

from ofatvm.device.children import child_pool, last_line, outcome, set_threads
from ofatvm.errors import CompileError, MissingInputError

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


def test_what_is_no_candidates_fault_is_raised() -> None:
    missing = MissingInputError(f"{TRACE}ofatvm.errors.MissingInputError: no ld found")
    with pytest.raises(MissingInputError, match=r"^no ld found$"):
        outcome(failed(missing), "build")
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

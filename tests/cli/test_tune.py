"""`ofatvm tune` says what it did, and from whose records it started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.space import VectorUnit, default_config
from ofatvm.events import Notice
from ofatvm.pipeline import tune as pipeline
from ofatvm.tuning.journal import Journal, Trial
from ofatvm.tuning.records import write_owner
from ofatvm.tuning.siblings import Sibling
from ofatvm.tuning.tune import TuningSummary
from tests.conftest import ROOT, Answer
from tests.sessions import wait_until_all_left
from tests.targets import parse_target

SMALL = Workload("pointwise", (4, 4, 16), (4, 4, 32), activation="relu")
UNIT = VectorUnit(lanes=4, registers=16, threads=2)


@pytest.fixture
def start(ofatvm: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `ofatvm tune` for one thread, with records of two threads there and no tuning done."""
    monkeypatch.chdir(tmp_path)

    def tune(
        *arguments: Any, siblings: Sequence[Sibling] = (), on_event: Any, **_: Any
    ) -> TuningSummary:
        for sibling in siblings:
            on_event(Notice("info", f"starts from {sibling}"))
        return TuningSummary(5, 4, 8, 8, 0, 0, 0, 0.1, tuple(siblings))

    monkeypatch.setattr(pipeline, "tune", tune)
    target = parse_target("x86-64-v2")
    with Journal.open(tmp_path / "tuning_logs" / target.name) as journal:
        write_owner(journal.folder, target, UNIT, "measured")
        journal.append([Trial(SMALL.key, default_config(SMALL, UNIT), (1e-5,))])
    return lambda *options: ofatvm("tune", "--target", "x86-64-v2", "--threads", "1", *options)


def test_it_says_whose_records_it_started_from(start: Callable[..., Answer]) -> None:
    answer = start()
    assert answer.code == 0, answer.err
    assert "started from" in answer.out
    assert "x86-64-v2: 1 record, 1 trial\n" in answer.out
    assert "starts from x86-64-v2" in answer.err
    answer = start("--json")
    assert answer.json["siblings"] == [{"target": "x86-64-v2", "records": 1, "trials": 1}]
    assert answer.json["folder"].endswith("x86-64-v2-1-threads")


def test_from_scratch_takes_nothing_from_siblings(start: Callable[..., Answer]) -> None:
    answer = start("--from-scratch", "--json")
    assert (answer.code, answer.json["siblings"]) == (0, [])
    assert "started from" not in start("--from-scratch").out


# A test runner in the background may hand down an ignored SIGINT.
STARTED_AS_BY_A_TERMINAL = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ofatvm.cli.main import main
sys.exit(main())
"""


@pytest.mark.qemu
@pytest.mark.skipif(
    not (shutil.which("qemu-aarch64") and shutil.which("llvm-mca")),
    reason="needs qemu-user and llvm: apt-get install qemu-user llvm",
)
@pytest.mark.timeout(600)
def test_an_interrupt_of_the_whole_terminal_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    words = ["tune", "--target", "raspberry-pi-4", "--device", "simulated", "--from-scratch"]
    words += ["--trials-per-workload", "2", "--tuning-logs", tmp_path, "--workspace", tmp_path]
    trials = tmp_path / "raspberry-pi-4" / "trials.jsonl"
    kept: list[bytes] = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", STARTED_AS_BY_A_TERMINAL, *words, "--quiet"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        deadline = time.monotonic() + 240
        while not trials.exists() or trials.read_bytes().count(b"\n") < len(kept) + 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (130, b"")
        assert err.splitlines()[-1] == b"error: interrupted (the same command continues)"
        wait_until_all_left(process.pid)
        lines = trials.read_bytes().splitlines()
        assert lines[: len(kept)] == kept
        assert len(lines) > len(kept)
        assert b"died" not in trials.read_bytes()
        kept = lines

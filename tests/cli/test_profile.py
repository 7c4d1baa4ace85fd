"""`ofatvm profile`: real measurements on this machine, kept in the workspace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ofatvm.cli import profile as module
from ofatvm.device import timing
from ofatvm.pipeline.setup import CALIBRATION, Setup
from tests.workbench import QUICK

Ofatvm = Callable[..., Any]


@pytest.fixture
def profile(
    ofatvm: Ofatvm,
    bench: Setup,
    own_lock: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Ofatvm:
    """Measures quickly, in a workspace of its own that has the shared kernels."""
    assert module.command.name == "profile"
    monkeypatch.setattr(timing, "SAMPLE", QUICK)
    bench.library.require([*CALIBRATION, *bench.workloads([bench.space.smallest()])])
    (tmp_path / "kernels").symlink_to(bench.workspace / "kernels")

    def run(*words: object) -> Any:
        options = ("--target", "x86-64-v2", "--threads", 1, "--workspace", tmp_path)
        return ofatvm("profile", *options, "--resolution", 128, *words)

    return run


def test_measured_once_and_shown_in_every_form(
    profile: Ofatvm, bench: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = bench.space.smallest().encode()
    first = profile("--json", arch)
    assert first.code == 0, first.err
    [row] = [json.loads(line) for line in first.out.splitlines()]
    assert row["arch"] == arch
    assert row["kind"] == "measured"
    assert row["device"] == "local"
    assert row["ci_low_ms"] <= row["latency_ms"] <= row["ci_high_ms"]
    assert len(row["samples_ms"]) == QUICK.rounds
    assert row["error"] == ""
    assert "measure" in first.err

    (tmp_path / "archs.txt").write_text(f"{arch}\n")
    again = profile("--json", "--quiet", tmp_path / "archs.txt")
    assert again.out == first.out, "it was not measured a second time"
    monkeypatch.setenv("COLUMNS", "60")
    text = profile("--quiet", "--file", tmp_path / "archs.txt")
    lines = text.out.splitlines()
    assert lines[0].split()[:2] == ["ms", "kind"]
    assert " measured " in lines[1]
    assert f"{row['latency_ms']:.4g}" in lines[1]
    assert all(len(line) <= 60 for line in lines)
    assert any(line.strip().endswith(arch) for line in lines)

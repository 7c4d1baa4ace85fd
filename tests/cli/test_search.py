"""`ofatvm search`: what it prints, on a machine that pretends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ofatvm.pipeline import measure, search, setup, ship
from ofatvm.predict import latency
from tests.workbench import PretendDevice, pretend_setup

Ofatvm = Callable[..., Any]


@pytest.fixture
def found(ofatvm: Ofatvm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ofatvm:
    """Search with everything that takes long replaced."""
    here = pretend_setup(tmp_path)
    device = PretendDevice()

    @contextmanager
    def prepare(*arguments: object, **options: object) -> Iterator[object]:
        yield here

    @contextmanager
    def local_device(*arguments: object) -> Iterator[PretendDevice]:
        yield device

    def shipped(setup: object, arch: object, out: Path, **options: Any) -> Path:
        assert options["measurement"].source == "final"
        assert options["accuracy_percent"] > 60
        return out

    small = search.SearchConfig
    monkeypatch.setattr(
        search,
        "SearchConfig",
        lambda seed: small(
            seed=seed,
            sample=16,
            per_round=4,
            rounds=2,
            finalists=4,
            population=60,
            generations=8,
        ),
    )
    monkeypatch.setattr(setup, "prepare", prepare)
    monkeypatch.setattr(measure, "local_device", local_device)
    monkeypatch.setattr(ship, "ship", shipped)
    monkeypatch.setattr(ship, "shipped_weights", lambda bundle: "untrained")
    monkeypatch.setattr(latency, "FEATURE_PENALTIES", (300.0,))
    monkeypatch.setattr(latency, "BLOCK_PENALTIES", (30.0,))

    def run(*words: object) -> Any:
        return ofatvm("search", "--target", "x86-64-v2", "--workspace", tmp_path, *words)

    return run


def test_the_answer_in_json_and_in_text(
    found: Ofatvm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answer = found("--json", "--seed", 3)
    assert answer.code == 0, answer.err
    data = answer.json
    assert data["ok"] is True
    assert data["target"] == "pretend-cpu"
    assert data["weights"] == "untrained"
    assert data["pick"] in data["front"]
    for point in data["front"]:
        assert point["accuracy_kind"] == "predicted"
        assert point["latency_kind"] == "simulated"
        assert point["ci_low_ms"] <= point["latency_ms"] <= point["ci_high_ms"]
        assert point["coverage"] == 0
    assert data["latency_model"]["mape_percent"] >= 0
    assert data["measured_subnets"] >= 16
    assert Path(data["bundle"]).parent == tmp_path / "bundles"
    assert "round 1" in answer.err

    monkeypatch.setenv("COLUMNS", "60")
    text = found("--seed", 3, "--out", tmp_path / "mine", "-q")
    assert text.code == 0, text.err
    lines = text.out.splitlines()
    pick = data["pick"]
    assert f"{pick['latency_ms']:.3f} ms, simulated, 2 threads" in text.out
    assert f"{pick['accuracy_percent']:.2f} % top-1, predicted" in text.out
    assert f"ofatvm verify {tmp_path / 'mine'}" in text.out
    assert "ms measured" in lines[0]
    assert "top-1 % predicted: " in text.out
    table = lines[: lines.index("")]
    assert all(len(line) <= 60 for line in table if "architecture:" not in line)
    assert sum(line.startswith(">") for line in table) == 1


def test_nothing_that_fits_is_exit_3_with_the_best(found: Ofatvm) -> None:
    answer = found("--json", "-q", "--latency-ms", "0.001")
    assert answer.code == 3
    error = answer.json["error"]
    assert error["kind"] == "InfeasibleBudgetError"
    assert error["best"]["measured_latency_ms"] > 0.001
    assert error["best"]["arch"].startswith("mbv3w1.0/224/")
    plain = found("-q", "--macs", "1M")
    assert (plain.code, plain.out) == (3, "")
    assert plain.err.startswith("error: no architecture")
    assert len(plain.err.splitlines()) == 1

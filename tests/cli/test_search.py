"""`ofatvm search`: what it prints, on a machine that pretends."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ofatvm.bundle import write
from ofatvm.cli import shipped as shipping
from ofatvm.pipeline import devices, search_state, setup, ship
from ofatvm.predict import latency
from ofatvm.report.outcome import kept_outcomes
from ofatvm.spaces import find_space
from ofatvm.store import Store
from ofatvm.supernet.folder import SupernetFolder
from tests.workbench import PretendDevice, pretend_setup

Ofatvm = Callable[..., Any]


@pytest.fixture
def pretend(ofatvm: Ofatvm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ofatvm:
    """Search in a space with everything that takes long replaced."""
    device = PretendDevice()

    @contextmanager
    def prepare(target: str, *, space_name: str, **options: object) -> Iterator[object]:
        space = find_space(space_name)
        yield pretend_setup(tmp_path, space.at(space.resolutions[-1]))

    @contextmanager
    def open_device(*arguments: object, **options: object) -> Iterator[PretendDevice]:
        yield device

    def shipped(setup: object, arch: object, out: Path, **options: Any) -> Path:
        assert options["measurement"].source == "final"
        (out / "sample").mkdir(parents=True, exist_ok=True)
        (out / "sample" / "image.png").touch()
        return out

    def facts(bundle: Path) -> dict[str, Any]:
        return {"weights": "untrained", "accuracy": None, "agreement": None}

    small = search_state.SearchConfig
    monkeypatch.setattr(
        search_state,
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
    monkeypatch.setattr(devices, "open_device", open_device)
    monkeypatch.setattr(ship, "ship", shipped)
    monkeypatch.setattr(ship, "shipped_facts", facts)
    # What the pretended ship leaves is no bundle.
    monkeypatch.setattr(write, "check_destination", lambda out, replace: None)
    monkeypatch.setattr(shipping, "_is_for_here", lambda model: True)
    monkeypatch.setattr(latency, "FEATURE_PENALTIES", (300.0,))
    monkeypatch.setattr(latency, "BLOCK_PENALTIES", (30.0,))

    def run(*words: object) -> Any:
        return ofatvm("search", "--target", "x86-64-v2", "--workspace", tmp_path, *words)

    return run


@pytest.fixture
def found(pretend: Ofatvm) -> Ofatvm:
    """Search in the ImageNet space, which has no supernet."""
    return lambda *words: pretend("--space", "mbv3w1.0", *words)


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
        assert point["accuracy_images"] is None
        assert point["predicted_accuracy_percent"] == point["accuracy_percent"]
        assert point["latency_kind"] == "simulated"
        assert point["ci_low_ms"] <= point["latency_ms"] <= point["ci_high_ms"]
        assert point["coverage"] == 0
    assert data["latency_model"]["mape_percent"] >= 0
    assert set(data["latency_baselines"]) == {"macs", "kernel sum", "one-hot XGBoost"}
    assert data["forecast"]["n"] == data["measured_subnets"] - 16, "all but the first sample"
    assert not {"cloud", "forecasts"} & set(data), "long lists are for the report"
    assert data["measured_subnets"] >= 16
    assert Path(data["bundle"]).parent == tmp_path / "bundles"
    assert "round 1" in answer.err

    monkeypatch.setenv("COLUMNS", "40")
    text = found("--seed", 3, "--out", tmp_path / "mine", "-q")
    assert text.code == 0, text.err
    lines, words = text.out.splitlines(), " ".join(text.out.split())
    pick = data["pick"]
    assert f"{pick['latency_ms']:.4g} ms, simulated, 2 threads" in words
    assert f"{pick['accuracy_percent']:.2f} % top-1, predicted" in words
    assert f"ofatvm verify {tmp_path / 'mine'}" in text.out
    assert f"python {tmp_path / 'mine'}/run.py {tmp_path / 'mine'}/sample/image.png" in text.out
    assert "agreement" not in text.out
    model = words.partition(" latency model ")[2].partition(" weights ")[0]
    assert re.search(r"% off out of fold, kernel sum .* macs .* % in \d+ forecasts$", model)
    assert "ms simulated" in lines[0]
    assert "interval" not in lines[0], "what is simulated has none"
    assert "top-1 % predicted" in lines[0]
    table = lines[: lines.index("")]
    assert all(len(line) <= 60 for line in table if "architecture:" not in line)
    assert sum(line.startswith(">") for line in table) == 1


def test_what_was_found_is_kept_for_the_report(
    found: Ofatvm, ofatvm: Ofatvm, tmp_path: Path
) -> None:
    first = found("--json", "-q").json
    again = found("--json", "-q").json
    other = found("--json", "-q", "--seed", 3).json
    assert again["pick"] == first["pick"]
    with Store.open(tmp_path) as store:
        kept = kept_outcomes(store)
    assert len(kept) == 2, "the same search is kept once"
    assert [outcome.seed for outcome in kept] == [3, 0]
    assert kept[0].pick.arch == other["pick"]["arch"]
    assert len(kept[1].cloud) == first["measured_subnets"]
    timed = {dot.arch: dot.latency_ms for dot in kept[1].cloud}
    for forecast in kept[1].forecasts:
        assert forecast.latency_ms == timed[forecast.arch]
        assert forecast.low_ms < forecast.predicted_ms < forecast.high_ms
        assert forecast.predicted_ms != forecast.latency_ms, "said before it was timed"
    assert ofatvm("report", "--workspace", tmp_path).code == 0
    assert first["pick"]["arch"] in (tmp_path / "report.html").read_text()


def test_nothing_that_fits_is_exit_3_with_the_best(found: Ofatvm) -> None:
    answer = found("--json", "-q", "--latency-ms", "0.001")
    assert answer.code == 3
    error = answer.json["error"]
    assert error["kind"] == "InfeasibleBudgetError"
    assert error["best"]["latency_ms"] > 0.001
    assert error["best"]["arch"].startswith("mbv3w1.0/224/")
    plain = found("-q", "--macs", "1M")
    assert (plain.code, plain.out) == (3, "")
    assert plain.err.startswith("error: no architecture")
    assert len(plain.err.splitlines()) == 1


def test_with_a_supernet_accuracies_are_measured(
    pretend: Ofatvm, supernet: SupernetFolder, tmp_path: Path
) -> None:
    text = pretend("--supernet", supernet.path, "-q", "--out", tmp_path / "a")
    assert text.code == 0, text.err
    assert "top-1 % measured" in text.out.splitlines()[0]
    assert "predicted" not in text.out
    answer = pretend("--supernet", supernet.path, "--json", "-q", "--out", tmp_path / "b")
    pick = answer.json["pick"]
    assert pick["arch"].startswith("small28/28/")
    assert (pick["accuracy_kind"], pick["accuracy_images"]) == ("measured", 60)
    assert 70 < pick["predicted_accuracy_percent"] < 95
    assert f"{pick['accuracy_percent']:.2f} % top-1, measured on 60 held-out images" in text.out
    assert answer.json["space"] == supernet.space.name


def test_what_was_interrupted_is_what_status_says_to_type_next(
    pretend: Ofatvm,
    ofatvm: Ofatvm,
    supernet: SupernetFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def status() -> Any:
        return ofatvm("status", "--workspace", tmp_path, "--json").json

    whole = ship.ship

    def stopped(*arguments: object, **options: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(ship, "ship", stopped)
    assert pretend("--supernet", supernet.path, "-q", "--seed", 5, "--fresh").code == 130
    [row] = status()["searches"]
    assert (row["state"], row["target"], row["ir"]) == ("unfinished", "pretend-cpu", "relax")
    command = status()["next"]
    words = shlex.split(command)
    assert words[:4] == ["ofatvm", "search", "--target", "x86-64-v2"]
    assert words[-3:] == ["-q", "--seed", "5"], "typed again, --fresh would begin anew"
    assert f"next: {command}\n" in ofatvm("status", "--workspace", tmp_path).out

    (tmp_path / "else where").mkdir()
    typed_in = Path.cwd()
    with contextlib.chdir(tmp_path / "else where"):
        assert status()["next"] == f"cd {shlex.quote(str(typed_in))} && {command}"

    monkeypatch.setattr(ship, "ship", whole)
    assert ofatvm(*words[1:]).code == 0
    [row] = status()["searches"]
    assert (row["state"], row["command"]) == ("finished", None)
    assert "x86-64-v2" not in status()["next"]


def test_a_search_that_found_nothing_that_fits_is_not_to_be_continued(
    found: Ofatvm, ofatvm: Ofatvm, tmp_path: Path
) -> None:
    assert found("-q", "--latency-ms", "0.001").code == 3
    data = ofatvm("status", "--workspace", tmp_path, "--json").json
    assert data["next"] == f"ofatvm search --target host --workspace {tmp_path}"

"""A search with a trained supernet: the accuracy of its finalists is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofatvm.arch import Arch
from ofatvm.errors import CheckpointError, InfeasibleBudgetError
from ofatvm.pipeline import top1 as module
from ofatvm.pipeline.describe import accuracy_model
from ofatvm.pipeline.search import SearchResult, search, search_key
from ofatvm.pipeline.search_state import SearchConfig
from ofatvm.pipeline.top1 import best_known_top1, measured_top1
from ofatvm.predict.features import SpaceTables
from ofatvm.search.budget import Budget
from ofatvm.store import Store
from ofatvm.supernet import evaluate as evaluating
from ofatvm.supernet.checkpoint import load_weights
from ofatvm.supernet.folder import SupernetFolder
from ofatvm.supernet.numpy_io import folder_exam
from tests.workbench import PretendDevice, pretend_setup

CONFIG = SearchConfig(sample=16, per_round=4, rounds=2, finalists=4, population=60, generations=8)
Search = Callable[..., SearchResult]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def run(supernet: SupernetFolder, store: Store, quick_fit: None, tmp_path: Path) -> Search:
    setup = pretend_setup(tmp_path, supernet.space.at(28))
    setup.__dict__["tables"] = SpaceTables.build(setup.space)
    accuracy = accuracy_model(setup.space, supernet)

    def search_there(budget: Budget | None = None, **options: Any) -> SearchResult:
        given = {"supernet": supernet} | options
        device = PretendDevice()
        return search(setup, store, device, accuracy, budget or Budget(), CONFIG, **given)

    return search_there


@pytest.fixture
def measured_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Arch], float]], list[Arch]]:
    """Let accuracies be what a function says, and hear which are asked for."""

    def install(percent: Callable[[Arch], float]) -> list[Arch]:
        asked: list[Arch] = []

        def evaluate(
            weights: Path, space: Any, exam: Any, archs: list[Arch], **options: Any
        ) -> None:
            for arch in archs:
                asked.append(arch)
                options["on_result"](arch, np.arange(1000) < 10 * percent(arch))

        monkeypatch.setattr(evaluating, "evaluate", evaluate)
        return asked

    return install


def test_an_accuracy_is_what_the_exam_gives_and_is_examined_once(
    supernet: SupernetFolder, store: Store, measured_as: Any
) -> None:
    archs = [supernet.space.smallest(20), supernet.space.smallest(28)]
    found = measured_top1(supernet, store, [*archs, archs[0]])
    net, exam = load_weights(supernet.weights, supernet.space), folder_exam(supernet)
    wanted = [exam.top1_percent(net, arch) for arch in archs]
    assert found == pytest.approx([*wanted, wanted[0]])
    asked = measured_as(lambda arch: 50.0)
    assert measured_top1(supernet, store, archs) == found[:2]
    assert asked == []
    other = replace(supernet, files={**supernet.files, "calibration.npz": "0" * 64})
    with pytest.raises(CheckpointError, match="digest"):
        measured_top1(other, store, archs)
    assert measured_top1(supernet, store, archs, fresh=True) == [50.0, 50.0]


def test_without_a_supernet_the_prediction_is_the_best_known(
    supernet: SupernetFolder, store: Store
) -> None:
    [found] = best_known_top1([supernet.space.smallest()], np.array([71.5]), None, store)
    assert found == module.Top1(71.5, "predicted", None, 71.5)


def test_the_front_is_of_measured_accuracies(run: Search, measured_as: Any) -> None:
    # The larger, the worse: whatever is predicted, only the fastest is worth anything.
    asked = measured_as(lambda arch: 95.0 - sum(arch.expands) / 10)
    result = run()
    assert 1 < len(asked) <= CONFIG.finalists
    [point] = result.front
    assert result.pick == point
    assert point.top1.kind == "measured"
    assert point.top1.images == 60
    assert point.accuracy_percent == pytest.approx(95.0 - sum(point.arch.expands) / 10)
    assert point.top1.predicted_percent != point.accuracy_percent


def test_a_minimum_is_met_by_measuring(run: Search, measured_as: Any) -> None:
    measured_as(lambda arch: 90.0 + sum(arch.depths) / 10)
    free = run()
    top1 = sorted(point.accuracy_percent for point in free.front)
    wanted = Budget(min_accuracy=top1[-1])
    assert run(wanted).pick.accuracy_percent >= top1[-1]


def test_a_minimum_alone_picks_the_fastest_that_reaches_it(run: Search, measured_as: Any) -> None:
    measured_as(lambda arch: 90.0 + sum(arch.depths) / 10)
    result = run(Budget(min_accuracy=90.5))
    assert len(result.front) > 1
    assert result.pick == min(result.front, key=lambda point: point.latency_ms)
    assert result.pick.accuracy_percent >= 90.5


def test_where_the_finalists_are_a_hair_too_low_the_next_best_are_measured(
    run: Search, measured_as: Any
) -> None:
    asked: list[Arch] = []

    def hair(arch: Arch) -> float:
        asked.append(arch)
        return 84.9 if len(set(asked)) <= CONFIG.finalists + 1 else 85.1

    measured_as(hair)
    result = run(Budget(min_accuracy=85.0))
    assert result.pick.accuracy_percent == 85.1


def test_a_minimum_that_is_predicted_and_not_measured_is_infeasible(
    run: Search, measured_as: Any
) -> None:
    measured_as(lambda arch: 60.0)
    with pytest.raises(InfeasibleBudgetError, match=r"60\.00 % measured top-1") as caught:
        run(Budget(min_accuracy=85.0))
    assert caught.value.best["accuracy_kind"] == "measured"
    assert caught.value.best["accuracy_percent"] == 60.0
    assert caught.value.best["predicted_accuracy_percent"] != 60.0


def test_without_the_supernet_accuracies_are_predicted(run: Search) -> None:
    result = run(supernet=None)
    assert {point.top1.kind for point in result.front} == {"predicted"}
    assert all(p.accuracy_percent == p.top1.predicted_percent for p in result.front)
    assert len(result.front) > 1


def test_the_weights_are_in_the_name(supernet: SupernetFolder, tmp_path: Path) -> None:
    setup = pretend_setup(tmp_path, supernet.space.at(28))
    other = replace(supernet, files={**supernet.files, "weights.safetensors": "0" * 64})
    keys = [search_key(setup, Budget(), CONFIG, given) for given in (None, supernet, other)]
    assert len(set(keys)) == 3

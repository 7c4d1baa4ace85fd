"""What is said of a budget that nothing meets: where else to look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofatvm.errors import InfeasibleBudgetError
from ofatvm.paths import data_dir
from ofatvm.pipeline.feasible import other_resolutions, require_feasible
from ofatvm.predict.accuracy import AccuracyModel, find_accuracy_model
from ofatvm.search.budget import Budget
from ofatvm.spaces import find_space
from tests.workbench import SPACE, pretend_setup


@pytest.fixture(scope="module")
def of_three() -> AccuracyModel:
    """A model of the small space at 20, 24 and 28 pixels."""
    return AccuracyModel.load(data_dir("supernets") / "fashion-mnist" / "accuracy.json")


@pytest.mark.parametrize(
    ("budget", "wanted"),
    [
        (Budget(latency_ms=1e-6), ", or try --resolution 20"),
        (Budget(macs=1.0, size_mb=1e-6), ", or try --resolution 20"),
        (Budget(min_accuracy=99.9), ", or try --resolution 28"),
        (Budget(macs=1.0, min_accuracy=99.9), ", or try --resolution 20 or 28"),
        (Budget(size_mb=1e-6), ""),
    ],
    ids=str,
)
def test_resolutions_that_may_help_are_named(
    tmp_path: Path, of_three: AccuracyModel, budget: Budget, wanted: str
) -> None:
    setup = pretend_setup(tmp_path, find_space("small28").at(24))
    assert other_resolutions(setup, of_three, budget) == wanted
    if budget.latency_ms is not None:
        return
    with pytest.raises(InfeasibleBudgetError) as caught:
        require_feasible(
            setup,
            of_three,
            budget,
            population=20,
            generations=2,
            rng=np.random.default_rng(0),
            slack_percent=0.0,
        )
    assert caught.value.hint.endswith(f"relax a limit{wanted}")


def test_a_resolution_without_accuracies_is_not_named(tmp_path: Path) -> None:
    at_224 = find_accuracy_model(SPACE.at(224))
    assert other_resolutions(pretend_setup(tmp_path), at_224, Budget(latency_ms=1e-6)) == ""

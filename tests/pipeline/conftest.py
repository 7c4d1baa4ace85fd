"""A quick search: a machine that pretends, and a latency model with few candidates to choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ofatvm.pipeline.setup import Setup
from ofatvm.predict import latency
from ofatvm.predict.accuracy import AccuracyModel, find_accuracy_model
from ofatvm.predict.features import SpaceTables
from ofatvm.store import Store
from tests.workbench import SPACE, pretend_setup


@pytest.fixture(scope="session")
def tables() -> SpaceTables:
    return SpaceTables.build(SPACE.at(224))


@pytest.fixture(scope="session")
def accuracy() -> AccuracyModel:
    return find_accuracy_model(SPACE.at(224))


@pytest.fixture
def quick_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "FEATURE_PENALTIES", (300.0,))
    monkeypatch.setattr(latency, "BLOCK_PENALTIES", (30.0,))
    monkeypatch.setattr(latency, "TREE_WEIGHTS", (0.0, 1.0))


@pytest.fixture
def make_setup(tables: SpaceTables, quick_fit: None) -> Callable[[Path], Setup]:
    def make(workspace: Path) -> Setup:
        setup = pretend_setup(workspace)
        setup.__dict__["tables"] = tables
        return setup

    return make


@pytest.fixture
def setup(make_setup: Callable[[Path], Setup], tmp_path: Path) -> Setup:
    return make_setup(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        yield opened

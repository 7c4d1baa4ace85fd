"""What a search evolves, and from where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ofatvm.pipeline import search_state
from ofatvm.pipeline.search_state import SearchConfig, SearchState
from ofatvm.pipeline.setup import Setup
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.predict.features import BlockTable, SpaceTables
from ofatvm.predict.latency import LatencyModel
from ofatvm.search.budget import Budget
from ofatvm.search.evolution import Evaluation, EvolutionResult, evolve
from ofatvm.store import Store
from tests.workbench import SPACE, PretendDevice

# Predicted top-1 within so many M MACs, found by 600,000 candidates.
BEST_KNOWN = {200: 75.590, 300: 77.008, 400: 77.515, 500: 77.706}


def test_the_default_evolution_comes_near_the_best_known(
    tables: SpaceTables, accuracy: AccuracyModel
) -> None:
    def objectives(rows: np.ndarray) -> Evaluation:
        costs = np.stack([tables.macs(rows) / 1e6, -accuracy.predict(rows)], axis=1)
        return Evaluation(costs, np.zeros(len(rows)))

    config = SearchConfig()
    result = evolve(
        SPACE.at(224),
        objectives,
        population=config.population,
        generations=config.generations,
        rng=np.random.default_rng(config.seed),
    )
    macs, top1 = result.costs[:, 0], -result.costs[:, 1]
    short = [best - top1[macs <= limit].max() for limit, best in BEST_KNOWN.items()]
    assert np.mean(short) < 0.02
    assert max(short) < 0.04


def test_an_evolution_goes_on_from_the_front_of_the_one_before(
    setup: Setup,
    store: Store,
    accuracy: AccuracyModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[set[bytes]] = []
    found: list[EvolutionResult] = []

    def watched(*arguments: Any, initial: np.ndarray, **options: Any) -> EvolutionResult:
        started.append({row.tobytes() for row in initial})
        found.append(evolve(*arguments, initial=initial, **options))
        return found[-1]

    monkeypatch.setattr(search_state, "evolve", watched)
    config = SearchConfig(sample=16, population=20, generations=30)
    run = SearchState(
        setup, store, PretendDevice(), accuracy, Budget(), config, None, False, lambda event: None
    )
    macs = setup.tables.macs_table()
    run.kernel_ms = BlockTable(setup.tables, macs.fixed / 5e7, macs.blocks / 5e7)
    rows = setup.space.sample_rows(np.random.default_rng(0), 16)
    known = run.kernel_ms(rows)
    model = LatencyModel.fit(rows, 1.1 * known + 0.1, known, setup.space, setup.tables)
    for number in range(3):
        run.evolve(model, number)
    assert started[0] == set()
    for before, again in zip(found, started[1:], strict=False):
        front = [row.tobytes() for row in before.rows]
        assert len(front) > 10
        assert len(again) == 10
        assert {front[0], front[-1]} <= again <= set(front)
    assert run.evaluated == sum(result.evaluated for result in found)

"""The search: repeatable, resumable, bounded, and within its budgets by measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofatvm.arch import Arch
from ofatvm.errors import InfeasibleBudgetError
from ofatvm.events import Event, Notice
from ofatvm.pipeline import measure as measuring
from ofatvm.pipeline.finals import MARGIN
from ofatvm.pipeline.measure import device_state
from ofatvm.pipeline.point import Point
from ofatvm.pipeline.references import HOLDS_AFTER, begin_anew, forget
from ofatvm.pipeline.search import SearchResult, search, search_key
from ofatvm.pipeline.search_state import SearchConfig, SearchState
from ofatvm.pipeline.setup import Setup
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.search.budget import Budget
from ofatvm.search.evolution import EvolutionResult
from ofatvm.store import Store
from tests.workbench import SPACE, PretendDevice, pretend_setup

CONFIG = SearchConfig(sample=16, per_round=4, rounds=3, finalists=4, population=60, generations=8)
Run = Callable[..., SearchResult]


@pytest.fixture
def run(make_setup: Callable[[Path], Setup], accuracy: AccuracyModel, tmp_path: Path) -> Run:
    """Search in the workspace `where`."""

    def search_there(
        budget: Budget | None = None,
        config: SearchConfig = CONFIG,
        *,
        where: str = "a",
        device: PretendDevice | None = None,
        fresh: bool = False,
        **options: object,
    ) -> SearchResult:
        workspace = tmp_path / where
        workspace.mkdir(exist_ok=True)
        with Store.open(workspace) as store:
            setup, used = make_setup(workspace), device or PretendDevice()
            if fresh:
                begin_anew(store, device_state(setup, used))
            return search(
                setup,
                store,
                used,
                accuracy,
                budget or Budget(),
                config,
                fresh=fresh,
                **options,  # type: ignore[arg-type]
            )

    return search_there


def outline(result: SearchResult) -> list[tuple[str, float, float]]:
    points = [*result.front, result.pick]
    return [(p.arch.encode(), p.latency_ms, p.accuracy_percent) for p in points]


def test_the_front_is_measured_sorted_and_non_dominated(run: Run) -> None:
    device, events = PretendDevice(), list[Event]()
    result = run(device=device, on_event=events.append)
    latency = [point.latency_ms for point in result.front]
    top1 = [point.accuracy_percent for point in result.front]
    assert len(result.front) >= 3
    assert latency == sorted(latency)
    assert top1 == sorted(top1)
    assert all(point.measurement.source == "final" for point in result.front)
    assert result.pick in result.front
    assert result.front[0].arch != result.pick.arch != result.front[-1].arch
    assert 1 <= result.rounds <= CONFIG.rounds
    assert len(result.found) <= CONFIG.sample + CONFIG.rounds * CONFIG.per_round
    assert device.measured <= len(result.found) + CONFIG.finalists
    assert result.evaluated > CONFIG.population
    assert all(abs(p.predicted_ms / p.latency_ms - 1) < 0.2 for p in result.front)
    assert any(isinstance(e, Notice) and e.text.startswith("round 1") for e in events)


def test_the_same_seed_gives_the_same_result_and_another_another(run: Run) -> None:
    first = outline(run())
    assert outline(run(where="b")) == first
    assert outline(run(config=replace(CONFIG, seed=1), where="c")) != first


def test_with_the_same_store_nothing_is_measured_twice(run: Run) -> None:
    first = outline(run())
    device = PretendDevice()
    assert outline(run(device=device)) == first
    assert (device.measured, device.timed) == (0, 0)
    assert outline(run(device=device, fresh=True)) == first
    assert device.measured > CONFIG.sample


@pytest.mark.parametrize("dies_after", [3, 18, 25])
def test_killed_and_started_again_it_ends_where_it_would_have(
    run: Run, dies_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "GROUP", 3)
    whole = PretendDevice()
    wanted = outline(run(device=whole))
    with pytest.raises(KeyboardInterrupt):
        run(where="b", device=PretendDevice(dies_after=dies_after))
    device = PretendDevice()
    assert outline(run(where="b", device=device)) == wanted
    assert device.measured < whole.measured - dies_after + 3


class WakingDevice(PretendDevice):
    """Finds out on the way, once, that its reference was too long: all takes twice as long."""

    def __init__(self, where: Path, *, wakes_at: int) -> None:
        super().__init__()
        self.where, self.wakes_at = where, wakes_at

    def measure(self, programs: Any, *arguments: Any, **options: Any) -> Any:
        if self.measured < self.wakes_at <= self.measured + len(programs):
            with Store.open(self.where) as store:
                forget(store, device_state(pretend_setup(self.where), self), HOLDS_AFTER)
        found = super().measure(programs, *arguments, **options)
        return found if self.measured >= self.wakes_at else [twice(latency) for latency in found]


def twice(latency: Any) -> Any:
    times = ("latency_ms", "p90_ms", "ci_low_ms", "ci_high_ms")
    return replace(latency, **{name: 2 * getattr(latency, name) for name in times})


@pytest.mark.parametrize("wakes_at", [3, 18, 25])
def test_a_search_that_outdates_its_own_measurements_ends_as_if_it_had_known(
    run: Run, tmp_path: Path, wakes_at: int
) -> None:
    wanted = run()
    device = WakingDevice(tmp_path / "b", wakes_at=wakes_at)
    found = run(where="b", device=device)
    assert outline(found) == outline(wanted)
    assert found.found.keys() == wanted.found.keys()


def test_every_point_of_the_front_meets_all_budgets(run: Run) -> None:
    free = run()
    middle = free.front[len(free.front) // 2]
    budget = Budget(
        latency_ms=middle.latency_ms * 1.02,
        macs=middle.macs * 1.05,
        size_mb=middle.size_bytes / 1e6 * 1.1,
        peak_memory_mb=middle.peak_memory_bytes / 1e6 * 1.3,
        min_accuracy=middle.accuracy_percent - 1.0,
    )
    result = run(budget)
    assert result.front
    assert all(within(budget, point) for point in result.front)
    assert result.pick == max(result.front, key=lambda point: point.accuracy_percent)


def within(budget: Budget, point: Point) -> bool:
    limits = budget.limits()
    return (
        point.latency_ms <= limits["latency_ms"]
        and point.macs <= limits["macs"]
        and point.size_bytes / 1e6 <= limits["size_mb"]
        and point.peak_memory_bytes / 1e6 <= limits["peak_memory_mb"]
        and point.accuracy_percent >= limits["min_accuracy"]
    )


@pytest.mark.parametrize("limit", ["min_accuracy", "latency_ms"])
def test_what_is_measured_next_is_where_the_pick_will_be(
    run: Run, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    real, chosen = SearchState.promising, list[bool]()

    def promising(self: SearchState, result: EvolutionResult, count: int) -> list[Arch]:
        archs = self.setup.space.from_rows(result.rows)
        unmeasured = [arch for arch in archs if arch not in self.found]
        half = unmeasured[: count // 2] if limit == "min_accuracy" else unmeasured[-count // 2 :]
        candidates = real(self, result, count)
        if result.feasible:
            chosen.append(set(half) <= set(candidates))
        return candidates

    monkeypatch.setattr(SearchState, "promising", promising)
    middle = run().front[1]
    chosen.clear()
    value = middle.accuracy_percent if limit == "min_accuracy" else middle.latency_ms
    run(Budget(**{limit: value}), where="b")
    assert chosen
    assert all(chosen)


@pytest.fixture
def fronts(monkeypatch: pytest.MonkeyPatch) -> list[list[Arch]]:
    """The measured fronts as searches see them, the fastest of each first."""
    real, seen = SearchState.measured_front, list[list[Arch]]()

    def measured_front(self: SearchState) -> tuple[list[Arch], np.ndarray, bool]:
        found = real(self)
        seen.append(found[0])
        return found

    monkeypatch.setattr(SearchState, "measured_front", measured_front)
    return seen


def test_finalists_under_a_latency_budget_are_of_the_whole_front(
    run: Run, fronts: list[list[Arch]]
) -> None:
    config = replace(CONFIG, sample=40, per_round=12, finalists=7)
    result = run(Budget(latency_ms=1e6), config)
    places = sorted(fronts[-1].index(point.arch) for point in result.front)
    latency = [result.found[arch].latency_ms or 0.0 for arch in fronts[-1]]
    count = len(latency)
    assert count > 2 * config.finalists
    # Two are the most accurate, two those with a margin, three are spread over the rest.
    assert places[0] == 0
    assert any(count / 4 < place < 3 * count / 4 for place in places)
    assert places[-2:] == [count - 2, count - 1]
    safe = [place for place in range(count) if latency[place] <= MARGIN * latency[-1]]
    assert set(safe[-2:]) <= set(places)


def test_finalists_for_an_accuracy_alone_are_the_fastest(
    run: Run, fronts: list[list[Arch]]
) -> None:
    least = run().front[1].accuracy_percent
    config = replace(CONFIG, sample=40, per_round=12)
    result = run(Budget(min_accuracy=least), config, where="b")
    assert len(fronts[-1]) > 2 * CONFIG.finalists
    assert set(fronts[-1][:2]) <= {point.arch for point in result.front}
    assert result.pick == result.front[0]


def test_a_tight_latency_budget_is_met_by_the_fastest(run: Run) -> None:
    fastest = run().front[0]
    result = run(Budget(latency_ms=fastest.latency_ms * 1.001))
    assert result.pick.latency_ms <= fastest.latency_ms * 1.001


def test_a_latency_nothing_reaches_names_the_best_measured(run: Run) -> None:
    fastest = run().front[0]
    with pytest.raises(InfeasibleBudgetError) as caught:
        run(Budget(latency_ms=fastest.latency_ms / 10))
    error = caught.value
    assert error.exit_code == 3
    assert f"latency_ms {fastest.latency_ms / 10:g}" in error.message
    assert f"{error.best['latency_ms']:.2f} ms" in error.message
    assert error.best["latency_ms"] <= fastest.latency_ms * 1.05  # type: ignore[operator]
    assert str(error.best["arch"]) in error.hint
    assert f" of {SPACE.name} at 224 " in error.message


@pytest.mark.parametrize(
    ("budget", "word"),
    [
        (Budget(macs=1e6), "macs"),
        (Budget(size_mb=0.001), "size_mb"),
        (Budget(peak_memory_mb=0.001), "peak_memory_mb"),
        (Budget(min_accuracy=99.0), "min_accuracy"),
        (Budget(macs=2e8, min_accuracy=80.0), "macs 2e+08, min_accuracy 80"),
        (Budget(latency_ms=1e6, size_mb=0.001), "size_mb"),
    ],
)
def test_what_needs_no_measuring_is_refused_before_any(run: Run, budget: Budget, word: str) -> None:
    device = PretendDevice()
    with pytest.raises(InfeasibleBudgetError, match="best achievable") as caught:
        run(budget, device=device)
    assert word in caught.value.message
    assert {"arch", "macs", "size_mb"} <= set(caught.value.best)
    assert (device.measured, device.timed) == (0, 0)


def test_latency_and_accuracy_together_may_be_too_much(run: Run) -> None:
    free = run()
    budget = Budget(
        latency_ms=free.front[0].latency_ms, min_accuracy=free.front[-1].accuracy_percent - 0.1
    )
    with pytest.raises(InfeasibleBudgetError, match="best achievable") as caught:
        run(budget)
    assert "min_accuracy" in caught.value.message
    assert "latency_ms" in caught.value.message


def test_rounds_in_which_nothing_meets_the_budget_settle_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, rounds=6, settled=10.0)
    real, met = SearchState.measured_front, list[bool]()
    missed = 0

    def front(self: SearchState) -> tuple[list[Arch], np.ndarray, bool]:
        archs, costs, found = real(self)
        met.append(found)
        return archs, costs, found and len(met) > missed

    monkeypatch.setattr(SearchState, "measured_front", front)
    free = run(config=config)
    assert free.rounds == 2, "a front that would have to grow tenfold is settled"
    assert all(met)
    met.clear()
    missed = 3
    assert run(config=config, where="b").rounds == missed + 2
    met.clear()
    with pytest.raises(InfeasibleBudgetError):
        run(Budget(latency_ms=free.front[0].latency_ms / 10), where="c")
    assert met
    assert not any(met)


def test_everything_that_decides_is_in_the_name(setup: Setup) -> None:
    key = search_key(setup, Budget(), CONFIG)
    assert search_key(setup, Budget(), CONFIG) == key
    others = [
        search_key(setup, Budget(latency_ms=3.0), CONFIG),
        search_key(setup, Budget(), replace(CONFIG, seed=1)),
        search_key(replace(setup, target=setup.target.with_threads(1)), Budget(), CONFIG),
    ]
    assert len({key, *others}) == 4

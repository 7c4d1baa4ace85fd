"""The search: measure a sample, fit, evolve, measure what looks best, refit, stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from ofatvm.arch import Arch
from ofatvm.device.base import Device
from ofatvm.events import Event, Notice, ignore
from ofatvm.measurement import Measurement
from ofatvm.pipeline.device_choice import LOCAL
from ofatvm.pipeline.feasible import require_feasible
from ofatvm.pipeline.finals import finals
from ofatvm.pipeline.measure import (
    known_times,
    latencies_ms,
    require_some,
)
from ofatvm.pipeline.model import fit_baselines
from ofatvm.pipeline.point import Point, pick
from ofatvm.pipeline.search_state import OutdatedError, SearchConfig, SearchState
from ofatvm.pipeline.setup import Setup
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.predict.latency import MIN_SAMPLES, LatencyModel
from ofatvm.predict.report import ErrorReport, error_report
from ofatvm.report.outcome import Forecast
from ofatvm.search.budget import Budget
from ofatvm.search.pareto import hypervolume_2d
from ofatvm.store import Store
from ofatvm.supernet.folder import WEIGHTS, SupernetFolder

WORST_SPANS = 3.0
"""How far below the sample's worst accuracy volumes start, in spans from its best to its worst."""
PREDICTION_SLACK = 1.0
"""Points by which a prediction may miss a minimum that is then checked by measuring."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The front by measured or simulated latency, the pick, and how the models did.

    `found` has every subnet that was measured or simulated on the way. The errors of `baselines`
    are out of fold, as those of the model's own report are.
    """

    front: tuple[Point, ...]
    pick: Point
    model: LatencyModel
    baselines: dict[str, ErrorReport]
    forecasts: tuple[Forecast, ...]
    found: dict[Arch, Measurement]
    evaluated: int
    rounds: int

    def forecast_report(self) -> ErrorReport | None:
        """Errors of the forecasts, each made before its subnet was tried; None without any."""
        if not self.forecasts:
            return None
        columns = [(f.predicted_ms, f.latency_ms, f.low_ms, f.high_ms) for f in self.forecasts]
        return error_report(*map(np.array, zip(*columns, strict=True)))


def search(
    setup: Setup,
    store: Store,
    device: Device,
    accuracy: AccuracyModel,
    budget: Budget,
    config: SearchConfig,
    *,
    supernet: SupernetFolder | None = None,
    fresh: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> SearchResult:
    """Find the front of accuracy and of latency on the device under a budget.

    `accuracy` steers; with the `supernet` it was fitted to, the accuracy of finalists is measured.

    Killed and started again with the same arguments, it repeats its seeded decisions on the
    stored measurements and goes on from there. `fresh` examines accuracy anew; latencies are those
    that hold for the device. Raises InfeasibleBudgetError naming the best achievable.
    """
    while True:
        run = SearchState(setup, store, device, accuracy, budget, config, supernet, fresh, on_event)
        try:
            return _search(run)
        except OutdatedError:
            on_event(Notice("info", "what was measured before does not hold: the search repeats"))


def _search(run: SearchState) -> SearchResult:
    setup, device, budget, config = run.setup, run.device, run.budget, run.config
    require_feasible(
        setup,
        run.accuracy,
        budget,
        population=config.population,
        generations=config.generations,
        rng=np.random.default_rng([config.seed, 3]),
        slack_percent=0.0 if run.supernet is None else PREDICTION_SLACK,
    )
    run.kernel_ms = known_times(setup, run.store, device, on_event=run.on_event)
    first = run.sample()
    measurements = run.measure(first, "search")
    require_some(measurements, MIN_SAMPLES)
    run.found = dict(zip(first, measurements, strict=True))
    # The corner that volumes are counted from stays where the first sample puts it.
    corner = _corner(run)
    rounds, best_volume = 0, 0.0
    model = run.fit()
    result = run.evolve(model, 0)
    while rounds < config.rounds:
        candidates = run.promising(result, config.per_round)
        if not candidates:
            break
        run.try_out(model, candidates)
        rounds += 1
        model = run.fit()
        result = run.evolve(model, rounds)
        _, costs, met = run.measured_front()
        run.on_event(Notice("info", _round_line(rounds, costs, model, run.evaluated, device.kind)))
        if not met:
            continue  # the nearest miss has a volume that says nothing
        volume = hypervolume_2d(costs, corner)
        if volume < best_volume * (1 + config.settled):
            break
        best_volume = max(best_volume, volume)
    else:
        run.on_event(Notice("info", f"the front was still moving after {config.rounds} rounds"))
    points = finals(run, model)
    return SearchResult(
        front=points,
        pick=pick(points, budget),
        model=model,
        baselines=fit_baselines(setup, list(run.found.values()), run.kernel_ms, seed=config.seed),
        forecasts=tuple(run.forecasts),
        found=run.found,
        evaluated=run.evaluated,
        rounds=rounds,
    )


def search_key(
    setup: Setup, budget: Budget, config: SearchConfig, supernet: SupernetFolder | None = None
) -> str:
    """A name for all that decides what a search tries, but records; `bundle_name` adds weights."""
    parts: list[object] = [
        setup.target.name,
        setup.target.fingerprint,
        setup.target.threads,
        setup.space.name,
        setup.resolution,
        asdict(budget),
        asdict(config),
    ]
    if supernet is not None:
        parts.append(supernet.files[WEIGHTS])
    if setup.device != LOCAL:
        parts += [setup.device, repr(setup.target.machine)]
    if setup.ir != "relax":
        parts.append(setup.ir)
    return "search-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _corner(run: SearchState) -> tuple[float, float]:
    """The costs that volumes are counted from: slower and much worse than the whole sample."""
    top1 = run.accuracy.predict(run.setup.space.to_rows(list(run.found)))
    slowest = float(np.nanmax(latencies_ms(list(run.found.values()))))
    return slowest, -float(top1.min() - WORST_SPANS * np.ptp(top1))


def _round_line(
    number: int, costs: np.ndarray, model: LatencyModel, evaluated: int, kind: str
) -> str:
    report = model.report
    return (
        f"round {number}: {kind} front of {len(costs)}, {costs[0, 0]:.3g} to {costs[-1, 0]:.3g} "
        f"ms, {-costs[0, 1]:.2f} to {-costs[-1, 1]:.2f} % predicted; model error "
        f"{report.mape_percent:.1f} % out of fold; {evaluated} candidates so far"
    )

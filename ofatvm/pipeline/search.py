"""The search: measure a sample, fit, evolve, measure what looks best, refit, stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ofatvm.arch import Arch
from ofatvm.device.base import Device
from ofatvm.device.timing import FINAL, SAMPLE, Protocol
from ofatvm.errors import InfeasibleBudgetError, MeasurementError
from ofatvm.events import Event, Notice, ignore
from ofatvm.measurement import Measurement
from ofatvm.pipeline.measure import (
    compile_space,
    kernel_times,
    latencies_ms,
    measure,
    require_some,
)
from ofatvm.pipeline.model import fit_latency
from ofatvm.pipeline.setup import Setup
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.predict.features import BlockTable
from ofatvm.predict.latency import LatencyModel
from ofatvm.search.budget import Budget
from ofatvm.search.evolution import Evaluation, EvolutionResult, evolve
from ofatvm.search.pareto import front, hypervolume_2d
from ofatvm.store import Store

WORST_ACCURACY = -50.0
MARGIN = 0.97


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """How much a search measures and evolves. Counts are totals over the run."""

    seed: int = 0
    sample: int = 48
    per_round: int = 12
    rounds: int = 10
    finalists: int = 8
    population: int = 500
    generations: int = 40
    settled: float = 0.002
    """A round that grows the measured front's hypervolume by less than this share is the last."""


@dataclass(frozen=True, slots=True)
class Point:
    """One architecture of the final front, rebuilt and measured."""

    arch: Arch
    accuracy_percent: float
    measurement: Measurement
    macs: int
    size_bytes: int
    peak_memory_bytes: int
    predicted_ms: float

    @property
    def latency_ms(self) -> float:
        """The measured median."""
        assert self.measurement.latency_ms is not None
        return self.measurement.latency_ms


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The measured front by latency, the pick, and how the models did."""

    front: tuple[Point, ...]
    pick: Point
    model: LatencyModel
    measured: int
    evaluated: int
    rounds: int


class _Search:
    """State of one run; every decision follows from the seed and the store."""

    def __init__(
        self,
        setup: Setup,
        store: Store,
        device: Device,
        accuracy: AccuracyModel,
        budget: Budget,
        config: SearchConfig,
        fresh: bool,
        on_event: Callable[[Event], None],
    ) -> None:
        self.fresh = fresh
        self.setup, self.store, self.device = setup, store, device
        self.accuracy, self.budget, self.config = accuracy, budget, config
        self.on_event = on_event
        self.kernel_ms: BlockTable
        self.found: dict[Arch, Measurement] = {}
        self.evaluated = 0

    def measure(
        self, archs: Sequence[Arch], source: str, protocol: Protocol = SAMPLE
    ) -> list[Measurement]:
        return measure(
            self.setup,
            self.store,
            self.device,
            archs,
            source=source,
            protocol=protocol,
            seed=self.config.seed,
            reuse=not self.fresh,
            on_event=self.on_event,
        )

    def sample(self) -> list[Arch]:
        """The seeded sample: the extremes and uniformly drawn subnets within the budget's sizes."""
        space, rng = self.setup.space, np.random.default_rng([self.config.seed, 1])
        rows = space.sample_rows(rng, 64 * self.config.sample)
        fits = self.budget.violation(rows, self.setup.tables, None, None) <= 0
        # Half of them within the size budgets, if any are, so that the model is good there.
        inside = rows[fits][: self.config.sample // 2] if not fits.all() else rows[:0]
        drawn = space.from_rows(np.concatenate([inside, rows]))
        archs = dict.fromkeys([space.smallest(), space.largest(), *drawn])
        return list(archs)[: self.config.sample]

    def evolve(self, model: LatencyModel, number: int) -> EvolutionResult:
        """One evolution under the budget with both predictors."""
        tables, budget = self.setup.tables, self.budget

        def objectives(rows: np.ndarray) -> Evaluation:
            latency = model.predict(rows, self.kernel_ms(rows)).latency_ms
            top1 = self.accuracy.predict(rows)
            costs = np.stack([latency, -top1], axis=1)
            return Evaluation(costs, budget.violation(rows, tables, latency, top1))

        known = self.setup.space.to_rows(list(self.found))
        result = evolve(
            self.setup.space,
            objectives,
            population=self.config.population,
            generations=self.config.generations,
            rng=np.random.default_rng([self.config.seed, 2, number]),
            initial=known[: self.config.population // 2],
        )
        self.evaluated += result.evaluated
        return result

    def promising(self, result: EvolutionResult, count: int) -> list[Arch]:
        """Unmeasured architectures of a predicted front, spread evenly along it, the best first.

        Under a latency budget half of them are those nearest to it, where the pick will be.
        """
        archs = self.setup.space.from_rows(result.rows)
        fresh = [i for i, arch in enumerate(archs) if arch not in self.found]
        if not fresh:
            return []
        spread = np.unique(np.linspace(0, len(fresh) - 1, count).round().astype(int))
        order = [fresh[i] for i in spread]
        if self.budget.limits():
            by_accuracy = sorted(fresh, key=lambda i: result.costs[i, 1])
            order = [*by_accuracy[: count // 2], *order]
        return [archs[i] for i in dict.fromkeys(order)][:count]

    def measured_front(self) -> tuple[list[Arch], np.ndarray]:
        """The non-dominated of all measured architectures under the budget, and their costs."""
        archs = [a for a, m in self.found.items() if m.latency_ms is not None]
        rows = self.setup.space.to_rows(archs)
        latency = latencies_ms([self.found[a] for a in archs])
        top1 = self.accuracy.predict(rows)
        costs = np.stack([latency, -top1], axis=1)
        violation = self.budget.violation(rows, self.setup.tables, latency, top1)
        best = front(costs, violation)
        best = best[np.argsort(costs[best, 0], kind="stable")]
        return [archs[i] for i in best], costs[best]


def search(
    setup: Setup,
    store: Store,
    device: Device,
    accuracy: AccuracyModel,
    budget: Budget,
    config: SearchConfig,
    *,
    fresh: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> SearchResult:
    """Find the front of accuracy and measured latency under a budget.

    Killed and started again with the same arguments, it repeats its seeded decisions on the
    stored measurements and goes on from there; `fresh` measures anew. Raises
    InfeasibleBudgetError naming the best achievable.
    """
    run = _Search(setup, store, device, accuracy, budget, config, fresh, on_event)
    _check_sizes(run)
    kernels = compile_space(setup, on_event=on_event)
    run.kernel_ms = kernel_times(setup, store, device, kernels, on_event=on_event)
    first = run.sample()
    measurements = run.measure(first, "search")
    require_some(measurements)
    run.found = dict(zip(first, measurements, strict=True))
    # The corner that volumes are counted from stays where the first sample puts it.
    slowest = float(np.nanmax(latencies_ms(list(run.found.values()))))
    rounds, best_volume = 0, 0.0
    model = fit_latency(setup, list(run.found.values()), run.kernel_ms, seed=config.seed)
    result = run.evolve(model, 0)
    while rounds < config.rounds:
        candidates = run.promising(result, config.per_round)
        if not candidates:
            break
        run.found |= dict(zip(candidates, run.measure(candidates, "search"), strict=True))
        rounds += 1
        model = fit_latency(setup, list(run.found.values()), run.kernel_ms, seed=config.seed)
        result = run.evolve(model, rounds)
        _, costs = run.measured_front()
        volume = hypervolume_2d(costs, (slowest, WORST_ACCURACY))
        on_event(Notice("info", _round_line(rounds, costs, model, run.evaluated)))
        if volume < best_volume * (1 + config.settled):
            break
        best_volume = max(best_volume, volume)
    else:
        on_event(Notice("info", f"the front was still moving after {config.rounds} rounds"))
    points = _finals(run, model)
    return SearchResult(
        front=points,
        pick=_pick(points, budget),
        model=model,
        measured=len(run.found),
        evaluated=run.evaluated,
        rounds=rounds,
    )


def search_key(setup: Setup, budget: Budget, config: SearchConfig) -> str:
    """A name for everything that decides a search's outcome but the machine's noise."""
    parts = [
        setup.target.fingerprint,
        setup.target.threads,
        setup.space.name,
        setup.resolution,
        asdict(budget),
        asdict(config),
    ]
    return "search-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _check_sizes(run: _Search) -> None:
    """Raise at once when no architecture meets the budgets that need no measuring."""
    budget = run.budget
    rest = Budget(None, budget.macs, budget.size_mb, budget.peak_memory_mb, budget.min_accuracy)
    if not rest.limits():
        return
    tables, accuracy = run.setup.tables, run.accuracy

    def objectives(rows: np.ndarray) -> Evaluation:
        top1 = accuracy.predict(rows)
        costs = np.stack([tables.macs(rows).astype(float), -top1], axis=1)
        return Evaluation(costs, rest.violation(rows, tables, None, top1))

    result = evolve(
        run.setup.space,
        objectives,
        population=run.config.population,
        generations=run.config.generations,
        rng=np.random.default_rng([run.config.seed, 3]),
    )
    if result.feasible:
        return
    row = result.rows[[int(np.argmin(result.violation))]]
    best: dict[str, object] = {
        "arch": run.setup.space.from_rows(row)[0].encode(),
        "macs": int(tables.macs(row)[0]),
        "size_mb": round(float(tables.weight_bytes(row)[0]) / 1e6, 3),
        "peak_memory_mb": round(float(tables.peak_memory_bytes(row)[0]) / 1e6, 3),
        "predicted_accuracy_percent": round(float(accuracy.predict(row)[0]), 2),
    }
    raise InfeasibleBudgetError(
        f"no architecture of {run.setup.space.name} at {run.setup.resolution} meets "
        f"{_limits_text(rest)}; the best achievable is {best['macs']:,} MACs, "
        f"{best['size_mb']} MB of weights, {best['peak_memory_mb']} MB peak memory, "
        f"{best['predicted_accuracy_percent']} % predicted top-1",
        hint=f"it is {best['arch']}; relax a limit",
        best=best,
    )


def _finals(run: _Search, model: LatencyModel) -> tuple[Point, ...]:
    """Rebuild and measure the finalists by the full protocol; the front of what comes out."""
    archs, costs = run.measured_front()
    limit = run.config.finalists
    keep = np.unique(np.linspace(0, len(archs) - 1, min(limit, len(archs))).round().astype(int))
    chosen = [archs[i] for i in keep]
    if run.budget.latency_ms is not None and len(archs) > limit:
        # The pick is the most accurate that fits. Those nearest to the limit may miss it in the
        # end, so half of the finalists are the best with a margin.
        near = [a for a, c in zip(archs, costs, strict=True) if c[0] > MARGIN * costs[-1][0]][-2:]
        safe = [a for a, c in zip(archs, costs, strict=True) if c[0] <= MARGIN * costs[-1][0]][-2:]
        chosen = list(dict.fromkeys([*near, *safe, *chosen]))[:limit]
    points = _points(run, model, chosen)
    inside = [point for point in points if _meets(run, point)]
    if not inside and run.budget.latency_ms is not None:
        # Once more with the fastest there is: the budget may be met by a hair, or not at all.
        fastest = min(run.found, key=lambda a: run.found[a].latency_ms or float("inf"))
        extra = [a for a in dict.fromkeys([fastest, run.setup.space.smallest()]) if a not in chosen]
        points += _points(run, model, extra)
        inside = [point for point in points if _meets(run, point)]
    if not inside:
        _raise_infeasible(run, points)
    final = np.array([(p.latency_ms, -p.accuracy_percent) for p in inside])
    best = sorted(front(final), key=lambda i: final[i, 0])
    return tuple(inside[i] for i in best)


def _points(run: _Search, model: LatencyModel, archs: Sequence[Arch]) -> list[Point]:
    measurements = run.measure(archs, "final", FINAL)
    good = [(a, m) for a, m in zip(archs, measurements, strict=True) if m.latency_ms is not None]
    for arch, m in zip(archs, measurements, strict=True):
        if m.error:
            run.on_event(Notice("warning", f"finalist {arch.encode()} failed: {m.error}"))
    if not good and archs:
        raise MeasurementError("no finalist could be measured", hint="see `ofatvm doctor`")
    rows = run.setup.space.to_rows([arch for arch, _ in good])
    tables = run.setup.tables
    columns = zip(
        good,
        run.accuracy.predict(rows),
        tables.macs(rows),
        tables.weight_bytes(rows),
        tables.peak_memory_bytes(rows),
        model.predict(rows, run.kernel_ms(rows)).latency_ms,
        strict=True,
    )
    return [
        Point(arch, float(top1), m, int(macs), int(size), int(peak), float(predicted))
        for (arch, m), top1, macs, size, peak, predicted in columns
    ]


def _meets(run: _Search, point: Point) -> bool:
    """Whether the measured median and everything else are within the budget."""
    rows = run.setup.space.to_rows([point.arch])
    latency, top1 = np.array([point.latency_ms]), np.array([point.accuracy_percent])
    return bool(run.budget.violation(rows, run.setup.tables, latency, top1)[0] <= 0)


def _raise_infeasible(run: _Search, points: Sequence[Point]) -> None:
    rows = run.setup.space.to_rows([point.arch for point in points])
    latency = np.array([point.latency_ms for point in points])
    top1 = np.array([point.accuracy_percent for point in points])
    violation = run.budget.violation(rows, run.setup.tables, latency, top1)
    nearest = points[int(np.argmin(violation))]
    raise InfeasibleBudgetError(
        f"no architecture meets {_limits_text(run.budget)} on {run.setup.target.name} with "
        f"{run.setup.target.threads} threads; the best achievable measured "
        f"{nearest.latency_ms:.2f} ms at {nearest.accuracy_percent:.2f} % predicted top-1",
        hint=f"it is {nearest.arch.encode()}; relax a limit",
        best={
            "arch": nearest.arch.encode(),
            "measured_latency_ms": nearest.latency_ms,
            "predicted_accuracy_percent": nearest.accuracy_percent,
        },
    )


def _pick(points: Sequence[Point], budget: Budget) -> Point:
    """The most accurate point under a budget; without one, the knee of the front.

    The knee is the point farthest above the line between the front's two ends.
    """
    if budget.limits() or len(points) < 3:
        return max(points, key=lambda point: (point.accuracy_percent, -point.latency_ms))
    x = np.array([point.latency_ms for point in points])
    y = np.array([point.accuracy_percent for point in points])
    gain = (y - y[0]) / max(y[-1] - y[0], 1e-9) - (x - x[0]) / max(x[-1] - x[0], 1e-9)
    return points[int(np.argmax(gain))]


def _limits_text(budget: Budget) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in budget.limits().items())


def _round_line(number: int, costs: np.ndarray, model: LatencyModel, evaluated: int) -> str:
    report = model.report
    return (
        f"round {number}: measured front of {len(costs)}, {costs[0, 0]:.2f} to {costs[-1, 0]:.2f} "
        f"ms, {-costs[0, 1]:.2f} to {-costs[-1, 1]:.2f} % predicted; model error "
        f"{report.mape_percent:.1f} % out of fold; {evaluated} candidates so far"
    )

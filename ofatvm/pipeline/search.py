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
from ofatvm.pipeline.device_choice import LOCAL
from ofatvm.pipeline.feasible import limits_text, require_feasible
from ofatvm.pipeline.measure import (
    known_times,
    latencies_ms,
    measure,
    require_some,
)
from ofatvm.pipeline.model import fit_latency
from ofatvm.pipeline.point import Point, pick
from ofatvm.pipeline.setup import Setup
from ofatvm.pipeline.top1 import best_known_top1
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.predict.features import BlockTable
from ofatvm.predict.latency import LatencyModel
from ofatvm.search.budget import Budget
from ofatvm.search.evolution import Evaluation, EvolutionResult, evolve
from ofatvm.search.pareto import front, hypervolume_2d
from ofatvm.store import Store
from ofatvm.supernet.folder import WEIGHTS, SupernetFolder

WORST_SPANS = 3.0
"""How far below the sample's worst accuracy volumes start, in spans from its best to its worst."""
MARGIN = 0.97
PREDICTION_SLACK = 1.0
"""Points by which a prediction may miss a minimum that is then checked by measuring."""


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
        supernet: SupernetFolder | None,
        fresh: bool,
        on_event: Callable[[Event], None],
    ) -> None:
        self.supernet, self.fresh = supernet, fresh
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

    def measured_front(self) -> tuple[list[Arch], np.ndarray, bool]:
        """The non-dominated of all measured, their costs, and whether they meet the budget.

        Where none meets it, those that miss it by least.
        """
        archs = [a for a, m in self.found.items() if m.latency_ms is not None]
        rows = self.setup.space.to_rows(archs)
        latency = latencies_ms([self.found[a] for a in archs])
        top1 = self.accuracy.predict(rows)
        costs = np.stack([latency, -top1], axis=1)
        violation = self.budget.violation(rows, self.setup.tables, latency, top1)
        best = front(costs, violation)
        best = best[np.argsort(costs[best, 0], kind="stable")]
        met = bool((violation[best] <= 0).all())
        return [archs[i] for i in best], costs[best], met


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
    stored measurements and goes on from there; `fresh` measures anew. Raises
    InfeasibleBudgetError naming the best achievable.
    """
    run = _Search(setup, store, device, accuracy, budget, config, supernet, fresh, on_event)
    require_feasible(
        setup,
        accuracy,
        budget,
        population=config.population,
        generations=config.generations,
        rng=np.random.default_rng([config.seed, 3]),
        slack_percent=0.0 if supernet is None else PREDICTION_SLACK,
    )
    run.kernel_ms = known_times(setup, store, device, on_event=on_event)
    first = run.sample()
    measurements = run.measure(first, "search")
    require_some(measurements)
    run.found = dict(zip(first, measurements, strict=True))
    # The corner that volumes are counted from stays where the first sample puts it.
    corner = _corner(run)
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
        _, costs, met = run.measured_front()
        on_event(Notice("info", _round_line(rounds, costs, model, run.evaluated, device.kind)))
        if not met:
            continue  # the nearest miss has a volume that says nothing
        volume = hypervolume_2d(costs, corner)
        if volume < best_volume * (1 + config.settled):
            break
        best_volume = max(best_volume, volume)
    else:
        on_event(Notice("info", f"the front was still moving after {config.rounds} rounds"))
    points = _finals(run, model)
    return SearchResult(
        front=points,
        pick=pick(points, budget),
        model=model,
        measured=len(run.found),
        evaluated=run.evaluated,
        rounds=rounds,
    )


def search_key(
    setup: Setup, budget: Budget, config: SearchConfig, supernet: SupernetFolder | None = None
) -> str:
    """A name for everything that decides a search's outcome but the machine's noise."""
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


def _corner(run: _Search) -> tuple[float, float]:
    """The costs that volumes are counted from: slower and much worse than the whole sample."""
    top1 = run.accuracy.predict(run.setup.space.to_rows(list(run.found)))
    slowest = float(np.nanmax(latencies_ms(list(run.found.values()))))
    return slowest, -float(top1.min() - WORST_SPANS * np.ptp(top1))


def _finals(run: _Search, model: LatencyModel) -> tuple[Point, ...]:
    """Rebuild and measure the finalists by the full protocol; the front of what comes out."""
    archs, costs, _ = run.measured_front()
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
    if not inside:
        # Once more with the ends: the budget may be met by a hair, or not at all.
        extra = [arch for arch in _ends(run) if arch not in chosen]
        points += _points(run, model, extra) if extra else []
        inside = [point for point in points if _meets(run, point)]
    if not inside:
        _raise_infeasible(run, points)
    final = np.array([(p.latency_ms, -p.accuracy_percent) for p in inside])
    best = sorted(front(final), key=lambda i: final[i, 0])
    return tuple(inside[i] for i in best)


def _ends(run: _Search) -> list[Arch]:
    """The fastest measured and the smallest for a latency, the most accurate for an accuracy."""
    found: list[Arch] = []
    if run.budget.latency_ms is not None:
        fastest = min(run.found, key=lambda a: run.found[a].latency_ms or float("inf"))
        found += [fastest, run.setup.space.smallest()]
    if run.budget.min_accuracy is not None and run.supernet is not None:
        archs = [a for a, m in run.found.items() if m.latency_ms is not None]
        top1 = run.accuracy.predict(run.setup.space.to_rows(archs))
        found.append(archs[int(np.argmax(top1))])
    return list(dict.fromkeys(found))


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
        best_known_top1(
            [arch for arch, _ in good],
            run.accuracy.predict(rows),
            run.supernet,
            run.store,
            fresh=run.fresh,
            on_event=run.on_event,
        ),
        tables.macs(rows),
        tables.weight_bytes(rows),
        tables.peak_memory_bytes(rows),
        model.predict(rows, run.kernel_ms(rows)).latency_ms,
        strict=True,
    )
    return [
        Point(arch, top1, m, int(macs), int(size), int(peak), float(predicted))
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
        f"no architecture meets {limits_text(run.budget)} on {run.setup.target.name} with "
        f"{run.setup.target.threads} threads; the best achievable {nearest.measurement.kind} "
        f"{nearest.latency_ms:.3g} ms at {nearest.accuracy_percent:.2f} % "
        f"{nearest.top1.kind} top-1",
        hint=f"it is {nearest.arch.encode()}; relax a limit",
        best={
            "arch": nearest.arch.encode(),
            "latency_ms": nearest.latency_ms,
            "latency_kind": nearest.measurement.kind,
            "accuracy_percent": nearest.accuracy_percent,
            "accuracy_kind": nearest.top1.kind,
            "predicted_accuracy_percent": nearest.top1.predicted_percent,
        },
    )


def _round_line(
    number: int, costs: np.ndarray, model: LatencyModel, evaluated: int, kind: str
) -> str:
    report = model.report
    return (
        f"round {number}: {kind} front of {len(costs)}, {costs[0, 0]:.3g} to {costs[-1, 0]:.3g} "
        f"ms, {-costs[0, 1]:.2f} to {-costs[-1, 1]:.2f} % predicted; model error "
        f"{report.mape_percent:.1f} % out of fold; {evaluated} candidates so far"
    )

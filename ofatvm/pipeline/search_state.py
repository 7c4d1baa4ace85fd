"""`SearchState`: what a running search knows, and the steps that it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ofatvm.arch import Arch
from ofatvm.device.base import Device
from ofatvm.device.timing import SAMPLE, Protocol
from ofatvm.events import Event
from ofatvm.measurement import Measurement
from ofatvm.pipeline.measure import device_state, latencies_ms, measure
from ofatvm.pipeline.model import fit_latency
from ofatvm.pipeline.references import holds_after
from ofatvm.pipeline.setup import Setup
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.predict.features import BlockTable
from ofatvm.predict.latency import LatencyModel
from ofatvm.report.outcome import Forecast
from ofatvm.search.budget import Budget
from ofatvm.search.evolution import Evaluation, EvolutionResult, evolve
from ofatvm.search.pareto import front
from ofatvm.store import Store
from ofatvm.supernet.folder import SupernetFolder


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """How much a search measures and evolves. Counts are totals over the run."""

    seed: int = 0
    sample: int = 48
    per_round: int = 12
    rounds: int = 10
    finalists: int = 8
    population: int = 200
    generations: int = 200
    settled: float = 0.002
    """A round that grows the measured front's hypervolume by less than this share is the last."""


class OutdatedError(Exception):
    """What a search measured so far does not hold any more; it has to begin again."""


class SearchState:
    """One run; every decision follows from the seed and the store."""

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
        """Nothing is known yet; `kernel_ms`, the kernels' own times, are set before the first fit.

        `fresh` examines accuracy again that the store holds.
        """
        self.supernet, self.fresh = supernet, fresh
        self.setup, self.store, self.device = setup, store, device
        self.accuracy, self.budget, self.config = accuracy, budget, config
        self.on_event = on_event
        self.kernel_ms: BlockTable
        self.found: dict[Arch, Measurement] = {}
        self.forecasts: list[Forecast] = []
        self.evaluated = 0
        self._evolved: np.ndarray | None = None
        self._run = device_state(setup, device)
        self._after = holds_after(store, self._run)

    def measure(
        self, archs: Sequence[Arch], source: str, protocol: Protocol = SAMPLE
    ) -> list[Measurement]:
        """Measure, or take from the store what was measured before.

        OutdatedError if this shows that what the search measured before does not hold.
        """
        found = measure(
            self.setup,
            self.store,
            self.device,
            archs,
            source=source,
            protocol=protocol,
            seed=self.config.seed,
            on_event=self.on_event,
        )
        if self.found and holds_after(self.store, self._run) != self._after:
            raise OutdatedError
        return found

    def try_out(self, model: LatencyModel, archs: Sequence[Arch]) -> None:
        """Measure what looks promising; what the model says of it beforehand is a forecast."""
        rows = self.setup.space.to_rows(archs)
        said = model.predict(rows, self.kernel_ms(rows))
        measurements = self.measure(archs, "search")
        self.found |= dict(zip(archs, measurements, strict=True))
        columns = zip(archs, said.latency_ms, said.low_ms, said.high_ms, measurements, strict=True)
        self.forecasts += [
            Forecast(
                arch=arch.encode(),
                predicted_ms=float(predicted),
                low_ms=float(low),
                high_ms=float(high),
                latency_ms=m.latency_ms,
            )
            for arch, predicted, low, high, m in columns
            if m.latency_ms is not None
        ]

    def fit(self) -> LatencyModel:
        """The latency model of all that was found so far."""
        return fit_latency(
            self.setup, list(self.found.values()), self.kernel_ms, seed=self.config.seed
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
        """One evolution under the budget with both predictors.

        It goes on from the front of the one before, of which half of the first population is.
        """
        tables, budget = self.setup.tables, self.budget

        def objectives(rows: np.ndarray) -> Evaluation:
            latency = model.predict(rows, self.kernel_ms(rows)).latency_ms
            top1 = self.accuracy.predict(rows)
            costs = np.stack([latency, -top1], axis=1)
            return Evaluation(costs, budget.violation(rows, tables, latency, top1))

        before = self._evolved
        if before is None:
            before = self.setup.space.to_rows(list(self.found))
        result = evolve(
            self.setup.space,
            objectives,
            population=self.config.population,
            generations=self.config.generations,
            rng=np.random.default_rng([self.config.seed, 2, number]),
            initial=before[spread(len(before), self.config.population // 2)],
        )
        self.evaluated += result.evaluated
        self._evolved = result.rows
        return result

    def promising(self, result: EvolutionResult, count: int) -> list[Arch]:
        """Unmeasured architectures of a predicted front, spread evenly along it, the best first.

        Under a budget half of them are those where the pick will be: the most accurate, or the
        fastest where an accuracy alone is asked for.
        """
        archs = self.setup.space.from_rows(result.rows)
        fresh = [i for i, arch in enumerate(archs) if arch not in self.found]
        if not fresh:
            return []
        order = [fresh[i] for i in spread(len(fresh), count)]
        if self.budget.limits():
            column = 0 if self.budget.accuracy_alone else 1
            wanted = sorted(fresh, key=lambda i: result.costs[i, column])
            order = [*wanted[: count // 2], *order]
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


def spread(length: int, count: int) -> np.ndarray:
    """Up to `count` places of a list, evenly along it and with both ends."""
    places: np.ndarray = np.linspace(0, length - 1, min(count, length)).round().astype(int)
    return places

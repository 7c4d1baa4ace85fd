"""Whether any architecture can meet a budget, as far as that is known without measuring."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ofatvm.errors import InfeasibleBudgetError
from ofatvm.pipeline.setup import Setup
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.search.budget import Budget
from ofatvm.search.evolution import Evaluation, evolve

_SUGGESTED = 3  # resolutions at most


def require_feasible(
    setup: Setup,
    accuracy: AccuracyModel,
    budget: Budget,
    *,
    population: int,
    generations: int,
    rng: np.random.Generator,
    slack_percent: float,
) -> None:
    """Raise InfeasibleBudgetError when nothing meets the limits on sizes and accuracy.

    An accuracy counts as reached when it is predicted to within `slack_percent` points.
    """
    rest = replace(budget, latency_ms=None)
    if not rest.limits():
        return
    tables = setup.tables

    def objectives(rows: np.ndarray) -> Evaluation:
        top1 = accuracy.predict(rows)
        costs = np.stack([tables.macs(rows).astype(float), -top1], axis=1)
        return Evaluation(costs, rest.violation(rows, tables, None, top1 + slack_percent))

    result = evolve(
        setup.space, objectives, population=population, generations=generations, rng=rng
    )
    if result.feasible:
        return
    row = result.rows[[int(np.argmin(result.violation))]]
    best: dict[str, object] = {
        "arch": setup.space.from_rows(row)[0].encode(),
        "macs": int(tables.macs(row)[0]),
        "size_mb": round(float(tables.weight_bytes(row)[0]) / 1e6, 3),
        "peak_memory_mb": round(float(tables.peak_memory_bytes(row)[0]) / 1e6, 3),
        "predicted_accuracy_percent": round(float(accuracy.predict(row)[0]), 2),
    }
    raise InfeasibleBudgetError(
        f"no architecture of {setup.space.name} at {setup.resolution} meets "
        f"{limits_text(rest)}; the best achievable is {best['macs']:,} MACs, "
        f"{best['size_mb']} MB of weights, {best['peak_memory_mb']} MB peak memory, "
        f"{best['predicted_accuracy_percent']} % predicted top-1",
        hint=f"it is {best['arch']}; relax a limit{other_resolutions(setup, accuracy, rest)}",
        best=best,
    )


def other_resolutions(setup: Setup, accuracy: AccuracyModel, budget: Budget) -> str:
    """The rest of a hint: resolutions at which the budget may be met; empty where none would help.

    A search keeps to one resolution. Smaller images cost less, larger ones give more accuracy.
    """
    limits = budget.limits().keys()
    lower = bool(limits & {"latency_ms", "macs", "peak_memory_mb"})
    higher = "min_accuracy" in limits
    found = [
        resolution
        for resolution in accuracy.resolutions
        if (lower and resolution < setup.resolution) or (higher and resolution > setup.resolution)
    ]
    nearest = sorted(found, key=lambda resolution: abs(resolution - setup.resolution))[:_SUGGESTED]
    return f", or try --resolution {' or '.join(map(str, nearest))}" if nearest else ""


def limits_text(budget: Budget) -> str:
    """The limits that are set, for a message."""
    return ", ".join(f"{name} {value:g}" for name, value in budget.limits().items())

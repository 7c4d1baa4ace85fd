"""The end of a search: its finalists rebuilt, measured by the full protocol, and judged."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ofatvm.arch import Arch
from ofatvm.device.timing import FINAL
from ofatvm.errors import InfeasibleBudgetError, MeasurementError
from ofatvm.events import Notice
from ofatvm.pipeline.feasible import limits_text, other_resolutions
from ofatvm.pipeline.measure import latencies_ms
from ofatvm.pipeline.point import Point
from ofatvm.pipeline.search_state import SearchState, spread
from ofatvm.pipeline.top1 import best_known_top1
from ofatvm.predict.latency import LatencyModel
from ofatvm.search.pareto import front
from ofatvm.text import counted

MARGIN = 0.97


def finals(run: SearchState, model: LatencyModel) -> tuple[Point, ...]:
    """Rebuild and measure the finalists by the full protocol; the front of what comes out."""
    archs, costs, _ = run.measured_front()
    limit = run.config.finalists
    chosen: list[Arch] = []
    if run.budget.latency_ms is not None and len(archs) > limit:
        # The pick is the most accurate that fits. Those nearest to the limit may miss it in the
        # end, so half of the finalists are the best with a margin.
        near = [a for a, c in zip(archs, costs, strict=True) if c[0] > MARGIN * costs[-1][0]][-2:]
        safe = [a for a, c in zip(archs, costs, strict=True) if c[0] <= MARGIN * costs[-1][0]][-2:]
        chosen = [*near, *safe][:limit]
    elif run.budget.accuracy_alone:
        # The pick is the fastest that is accurate enough, and its accuracy is yet to be measured.
        chosen = archs[: limit // 2]
    rest = [arch for arch in archs if arch not in chosen]
    chosen += [rest[i] for i in spread(len(rest), limit - len(chosen))]
    points = _points(run, model, chosen)
    inside = [point for point in points if _meets(run, point)]
    if not inside:
        # Once more with the ends: the budget may be met by a hair, or not at all.
        extra = [arch for arch in _ends(run) if arch not in chosen]
        points += _points(run, model, extra)
        inside = [point for point in points if _meets(run, point)]
    if not inside and run.supernet is not None and run.budget.min_accuracy is not None:
        # Predictions are off by some tenths of a point: the next best may be more accurate.
        known = {point.arch for point in points}
        points += _points(run, model, _most_accurate(run, known, limit))
        inside = [point for point in points if _meets(run, point)]
    if not points:
        raise MeasurementError("no finalist could be measured", hint="see `ofatvm doctor`")
    if not inside:
        _raise_infeasible(run, points)
    final = np.array([(p.latency_ms, -p.accuracy_percent) for p in inside])
    best = sorted(front(final), key=lambda i: final[i, 0])
    return tuple(inside[i] for i in best)


def _ends(run: SearchState) -> list[Arch]:
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


def _most_accurate(run: SearchState, known: Collection[Arch], count: int) -> list[Arch]:
    """Of what was measured within all limits but accuracy, the most accurate by prediction."""
    archs = [a for a, m in run.found.items() if m.latency_ms is not None and a not in known]
    if not archs:
        return []
    rows = run.setup.space.to_rows(archs)
    latency = latencies_ms([run.found[arch] for arch in archs])
    fits = run.budget.violation(rows, run.setup.tables, latency, None) <= 0
    order = np.argsort(-run.accuracy.predict(rows), kind="stable")
    return [archs[i] for i in order if fits[i]][:count]


def _points(run: SearchState, model: LatencyModel, archs: Sequence[Arch]) -> list[Point]:
    measurements = run.measure(archs, "final", FINAL)
    good = [(a, m) for a, m in zip(archs, measurements, strict=True) if m.latency_ms is not None]
    for arch, m in zip(archs, measurements, strict=True):
        if m.error:
            run.on_event(Notice("warning", f"finalist {arch.encode()} failed: {m.error}"))
    if not good:
        return []
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


def _meets(run: SearchState, point: Point) -> bool:
    """Whether the measured median and everything else are within the budget."""
    rows = run.setup.space.to_rows([point.arch])
    latency, top1 = np.array([point.latency_ms]), np.array([point.accuracy_percent])
    return bool(run.budget.violation(rows, run.setup.tables, latency, top1)[0] <= 0)


def _raise_infeasible(run: SearchState, points: Sequence[Point]) -> None:
    rows = run.setup.space.to_rows([point.arch for point in points])
    latency = np.array([point.latency_ms for point in points])
    top1 = np.array([point.accuracy_percent for point in points])
    violation = run.budget.violation(rows, run.setup.tables, latency, top1)
    nearest = points[int(np.argmin(violation))]
    unstable = nearest.measurement.unstable
    raise InfeasibleBudgetError(
        f"no architecture of {run.setup.space.name} at {run.setup.resolution} meets "
        f"{limits_text(run.budget)} on {run.setup.target.name} with "
        f"{counted(run.setup.target.threads, 'thread')}; the best achievable "
        f"{nearest.measurement.kind} {nearest.latency_ms:.3g} ms"
        f"{' (unstable)' if unstable else ''} at {nearest.accuracy_percent:.2f} % "
        f"{nearest.top1.kind} top-1",
        hint=f"it is {nearest.arch.encode()}; "
        + ("try on a quiet machine, or relax a limit" if unstable else "relax a limit")
        + other_resolutions(run.setup, run.accuracy, run.budget),
        best={
            "arch": nearest.arch.encode(),
            "latency_ms": nearest.latency_ms,
            "latency_kind": nearest.measurement.kind,
            "unstable": unstable,
            "accuracy_percent": nearest.accuracy_percent,
            "accuracy_kind": nearest.top1.kind,
            "predicted_accuracy_percent": nearest.top1.predicted_percent,
        },
    )

"""From what a search found to its `Outcome`: what is printed, kept and reported of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofatvm.bundle.manifest import Accuracy, Agreement
from ofatvm.measurement import now
from ofatvm.pipeline.point import Point
from ofatvm.pipeline.search import SearchResult
from ofatvm.pipeline.setup import Setup
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.report.outcome import Dot, FrontPoint, Outcome
from ofatvm.search.budget import Budget
from ofatvm.tuning.workloads import subnet_workloads


def outcome_of(
    setup: Setup,
    budget: Budget,
    accuracy: AccuracyModel,
    found: SearchResult,
    bundle: Path,
    shipped: Mapping[str, Any],
    *,
    seed: int,
) -> Outcome:
    """The whole of it; `shipped` are the bundle's `shipped_facts`."""
    front = {point.arch: _front_point(setup, point) for point in found.front}
    latencies = {a: m.latency_ms for a, m in found.found.items() if m.latency_ms is not None}
    top1 = accuracy.predict(setup.space.to_rows(list(latencies)))
    return Outcome(
        when=now(),
        target=setup.target.name,
        fingerprint=setup.target.fingerprint,
        threads=setup.target.threads,
        device=setup.device,
        space=setup.space.name,
        resolution=setup.resolution,
        budget=budget,
        seed=seed,
        weights=shipped["weights"],
        ir=setup.ir,
        records=dict(setup.road_records.sources),
        front=tuple(front.values()),
        pick=front[found.pick.arch],
        bundle=str(bundle),
        bundle_accuracy=Accuracy(**shipped["accuracy"]) if shipped["accuracy"] else None,
        agreement=Agreement(**shipped["agreement"]) if shipped["agreement"] else None,
        measured_subnets=len(found.found),
        evaluated_candidates=found.evaluated,
        rounds=found.rounds,
        latency_model=found.model.report,
        latency_baselines=found.baselines,
        forecast=found.forecast_report(),
        versions=dict(found.pick.measurement.versions),
        cloud=tuple(
            Dot(
                arch=arch.encode(),
                latency_ms=latency_ms,
                predicted_accuracy_percent=float(percent),
            )
            for (arch, latency_ms), percent in zip(latencies.items(), top1, strict=True)
        ),
        forecasts=found.forecasts,
    )


def _front_point(setup: Setup, point: Point) -> FrontPoint:
    m = point.measurement
    return FrontPoint(
        arch=point.arch.encode(),
        accuracy_percent=round(point.accuracy_percent, 3),
        accuracy_kind=point.top1.kind,
        accuracy_images=point.top1.images,
        predicted_accuracy_percent=round(point.top1.predicted_percent, 3),
        latency_ms=point.latency_ms,
        latency_kind=m.kind,
        ci_low_ms=m.ci_low_ms,
        ci_high_ms=m.ci_high_ms,
        p90_ms=m.p90_ms,
        visits=len(m.samples_ms),
        unstable=m.unstable,
        predicted_latency_ms=point.predicted_ms,
        macs=point.macs,
        size_bytes=point.size_bytes,
        peak_memory_bytes=point.peak_memory_bytes,
        coverage=setup.coverage(subnet_workloads(point.arch)),
    )

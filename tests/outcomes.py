"""One finished search, as the store keeps it."""

from __future__ import annotations

from ofatvm.predict.report import ErrorReport
from ofatvm.report.outcome import Dot, Forecast, FrontPoint, Outcome
from ofatvm.search.budget import Budget


def errors(percent: float, n: int = 60, coverage: float | None = None) -> ErrorReport:
    return ErrorReport(n, percent, -0.25, 0.987, 70.0, 95.0, coverage)


def point(arch: str, accuracy: float, latency: float, **changes: object) -> FrontPoint:
    known: dict[str, object] = {
        "arch": arch,
        "accuracy_percent": accuracy,
        "accuracy_kind": "measured",
        "accuracy_images": 10_000,
        "predicted_accuracy_percent": accuracy + 0.1,
        "latency_ms": latency,
        "latency_kind": "measured",
        "ci_low_ms": 0.98 * latency,
        "ci_high_ms": 1.03 * latency,
        "p90_ms": 1.05 * latency,
        "visits": 9,
        "unstable": False,
        "predicted_latency_ms": 1.01 * latency,
        "macs": 3_000_000,
        "size_bytes": 1_500_000,
        "peak_memory_bytes": 110_000,
        "coverage": 1.0,
    }
    return FrontPoint(**(known | changes))  # type: ignore[arg-type]


def finished() -> Outcome:
    """A search for a Cortex-A72 with one subnet after its first sample."""
    front = (
        point("small28/20/32-32-32-32", 91.5, 0.0125),
        point("small28/28/33-53.54.54-54-54.52", 93.25, 0.0275),
    )
    return Outcome(
        when="2026-11-27T00:10:00.000+00:00",
        target="cortex-a72",
        fingerprint="0123456789ab",
        threads=4,
        device="local",
        space="small28_d123_e234_k35",
        resolution=28,
        budget=Budget(latency_ms=0.03, min_accuracy=91.0),
        seed=7,
        weights="supernet fashion-mnist",
        ir="relax",
        records={"cortex-a72": 120},
        front=front,
        pick=front[1],
        bundle=".ofatvm/bundles/search-1",
        bundle_accuracy=None,
        agreement=None,
        measured_subnets=61,
        evaluated_candidates=41_000,
        rounds=2,
        latency_model=errors(1.5, coverage=0.9),
        latency_baselines={"macs": errors(14.5), "kernel sum": errors(3.5)},
        forecast=errors(2.5, n=1, coverage=1.0),
        versions={"apache-tvm": "0.27.0"},
        cloud=(
            Dot(arch="small28/24/32-32-32-33", latency_ms=0.02, predicted_accuracy_percent=92.0),
        ),
        forecasts=(
            Forecast(
                arch="small28/24/32-32-32-33",
                predicted_ms=0.021,
                low_ms=0.019,
                high_ms=0.023,
                latency_ms=0.02,
            ),
        ),
    )

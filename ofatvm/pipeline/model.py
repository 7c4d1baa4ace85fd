"""The latency model of a workspace: fitted from its measurements, kept beside the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ofatvm.compiler.base import library_digest
from ofatvm.measurement import Measurement
from ofatvm.pipeline.gpu import space_digest
from ofatvm.pipeline.measure import latencies_ms
from ofatvm.pipeline.setup import Setup
from ofatvm.predict.baselines import baseline_reports
from ofatvm.predict.features import BlockTable
from ofatvm.predict.latency import LatencyModel
from ofatvm.predict.report import ErrorReport
from ofatvm.tuning.workloads import space_workloads


def model_folder(setup: Setup) -> Path:
    """Where the model of this target, device, space, resolution and kernels is kept."""
    if setup.gpu:
        kernels = space_digest(setup)
    else:
        uses = space_workloads(setup.space, setup.resolution)
        kernels = library_digest(setup.library.kernel(use.workload) for use in uses)
    device = "" if setup.device == "local" else f"{setup.device.split(':')[0]}-"
    name = f"{device}{setup.target.fingerprint}-{setup.target.threads}-{kernels}"
    return setup.workspace / "models" / f"latency-{name}-{setup.space.code}-{setup.resolution}"


def fit_latency(
    setup: Setup, measurements: Sequence[Measurement], kernel_ms: BlockTable, *, seed: int
) -> LatencyModel:
    """Fit on all good measurements and keep the model in the workspace."""
    rows, latency_ms = _timed(setup, measurements)
    model = LatencyModel.fit(
        rows,
        latency_ms,
        kernel_ms(rows),
        setup.space,
        setup.tables,
        kernel_ms=kernel_ms,
        seed=seed,
    )
    folder = model_folder(setup)
    folder.parent.mkdir(parents=True, exist_ok=True)
    model.save(folder)
    return model


def fit_baselines(
    setup: Setup, measurements: Sequence[Measurement], kernel_ms: BlockTable, *, seed: int
) -> dict[str, ErrorReport]:
    """Errors of simpler models on the same measurements, by name."""
    rows, latency_ms = _timed(setup, measurements)
    return baseline_reports(rows, latency_ms, kernel_ms(rows), setup.tables, seed=seed)


def _timed(setup: Setup, measurements: Sequence[Measurement]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and latencies of what did not fail."""
    good = [m for m in measurements if m.latency_ms is not None]
    rows = setup.space.to_rows([setup.space.parse(m.arch) for m in good])
    return rows, latencies_ms(good)


def load_latency(setup: Setup) -> LatencyModel | None:
    """The workspace's model, None if no search has fitted one.

    The kernel times that its predictions start from are its `cost` table.
    """
    folder = model_folder(setup)
    return LatencyModel.load(folder, setup.tables) if folder.is_dir() else None

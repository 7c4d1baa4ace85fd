"""`Point`, a finalist as a search hands it out, and which of them is the pick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofatvm.arch import Arch
from ofatvm.measurement import Measurement
from ofatvm.pipeline.top1 import Top1
from ofatvm.search.budget import Budget


@dataclass(frozen=True, slots=True)
class Point:
    """One architecture of the final front, rebuilt and measured."""

    arch: Arch
    top1: Top1
    measurement: Measurement
    macs: int
    size_bytes: int
    peak_memory_bytes: int
    predicted_ms: float

    @property
    def accuracy_percent(self) -> float:
        """Top-1, measured if there is a trained supernet."""
        return self.top1.percent

    @property
    def latency_ms(self) -> float:
        """The measured or simulated median."""
        assert self.measurement.latency_ms is not None
        return self.measurement.latency_ms


def pick(points: Sequence[Point], budget: Budget) -> Point:
    """The most accurate point within upper limits, the fastest where only an accuracy is asked for.

    Without a budget it is the knee of the front, the point farthest above the line between its two
    ends. All `points` meet the budget.
    """
    if budget.accuracy_alone:
        return min(points, key=lambda point: (point.latency_ms, -point.accuracy_percent))
    if budget.limits() or len(points) < 3:
        return max(points, key=lambda point: (point.accuracy_percent, -point.latency_ms))
    x = np.array([point.latency_ms for point in points])
    y = np.array([point.accuracy_percent for point in points])
    gain = (y - y[0]) / max(y[-1] - y[0], 1e-9) - (x - x[0]) / max(x[-1] - x[0], 1e-9)
    return points[int(np.argmax(gain))]

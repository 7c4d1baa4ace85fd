"""What can be said of an architecture without running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ofatvm.arch import Arch
from ofatvm.errors import ArchError, MissingInputError
from ofatvm.graph import operator_graph, totals
from ofatvm.pipeline.setup import Setup
from ofatvm.tuning.workloads import coverage, subnet_workloads


@dataclass(frozen=True, slots=True)
class Description:
    """An architecture's costs; predictions are None where there is no model for them."""

    arch: Arch
    macs: int
    params: int
    weight_bytes: int
    peak_memory_bytes: int
    workloads: int
    coverage: float
    predicted_top1_percent: float | None = None
    predicted_latency_ms: float | None = None
    predicted_low_ms: float | None = None
    predicted_high_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Field name -> value, the architecture as its string."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "arch": self.arch.encode(), "resolution": self.arch.resolution}


def describe(setup: Setup, archs: Sequence[Arch]) -> list[Description]:
    """Describe architectures of the setup's space, at any of its resolutions."""
    accuracy = predicted_accuracy(archs)
    latency = predicted_latency(setup, archs)
    result = []
    for arch, top1, (value, low, high) in zip(archs, accuracy, latency, strict=True):
        cost = totals(operator_graph(arch))
        uses = subnet_workloads(arch)
        result.append(
            Description(
                arch,
                cost.macs,
                cost.params,
                cost.weight_bytes,
                cost.peak_memory_bytes,
                len(uses),
                coverage(uses, setup.records.configs),
                top1,
                value,
                low,
                high,
            )
        )
    return result


def predicted_accuracy(archs: Sequence[Arch]) -> list[float | None]:
    """Top-1 percent from the accuracy model of each architecture's space, None without one."""
    from ofatvm.predict.accuracy import find_accuracy_model

    result: list[float | None] = []
    for arch in archs:
        space = arch.space.at(arch.resolution)
        try:
            model = find_accuracy_model(space)
        except (MissingInputError, ArchError):
            result.append(None)
            continue
        result.append(float(model.predict(space.to_rows([arch]))[0]))
    return result


def predicted_latency(
    setup: Setup, archs: Sequence[Arch]
) -> list[tuple[float | None, float | None, float | None]]:
    """Milliseconds with a 90 % interval, from the model that a search left in the workspace."""
    from ofatvm.pipeline.model import load_latency

    unknown = (None, None, None)
    model = load_latency(setup)
    if model is None:
        return [unknown] * len(archs)
    result: list[tuple[float | None, float | None, float | None]] = []
    for arch in archs:
        if arch.resolution != setup.resolution:
            result.append(unknown)
            continue
        rows = setup.space.to_rows([arch])
        prediction = model.predict(rows, model.cost(rows))
        result.append(
            (
                float(prediction.latency_ms[0]),
                float(prediction.low_ms[0]),
                float(prediction.high_ms[0]),
            )
        )
    return result

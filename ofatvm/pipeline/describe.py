"""What can be said of an architecture without running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ofatvm.arch import Arch, ArchSpace
from ofatvm.errors import MissingInputError
from ofatvm.graph import operator_graph, totals
from ofatvm.pipeline.setup import Setup
from ofatvm.supernet.folder import SupernetFolder
from ofatvm.tuning.workloads import subnet_workloads

if TYPE_CHECKING:
    from ofatvm.predict.accuracy import AccuracyModel


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


def describe(
    setup: Setup, archs: Sequence[Arch], supernet: SupernetFolder | None = None
) -> list[Description]:
    """Describe architectures of the setup's space, at any of its resolutions.

    Accuracies are predicted by the model of the `supernet` where it is of an architecture's space.
    """
    accuracy = predicted_accuracy(archs, supernet)
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
                setup.coverage(uses),
                top1,
                value,
                low,
                high,
            )
        )
    return result


def predicted_accuracy(
    archs: Sequence[Arch], supernet: SupernetFolder | None = None
) -> list[float | None]:
    """Top-1 percent from the accuracy model of each architecture's space, None without one."""
    result: list[float | None] = [None] * len(archs)
    for space, places in _by_space(archs).items():
        try:
            model = accuracy_model(space, supernet)
        except MissingInputError:
            continue
        top1 = model.predict(space.to_rows(archs[i] for i in places))
        for i, value in zip(places, top1, strict=True):
            result[i] = float(value)
    return result


def accuracy_model(space: ArchSpace, supernet: SupernetFolder | None) -> AccuracyModel:
    """The model of a supernet of this space, or else the one shipped for the space.

    MissingInputError if it does not know the space at all its resolutions.
    """
    from ofatvm.predict.accuracy import AccuracyModel, find_accuracy_model

    if supernet is None or supernet.space.code != space.code:
        return find_accuracy_model(space)
    model = AccuracyModel.load(supernet.accuracy_model)
    model.require(space)
    return model


def predicted_latency(
    setup: Setup, archs: Sequence[Arch]
) -> list[tuple[float, float, float] | tuple[None, None, None]]:
    """Milliseconds with a 90 % interval, from the model that a search left in the workspace."""
    from ofatvm.pipeline.model import load_latency

    result: list[tuple[float, float, float] | tuple[None, None, None]]
    result = [(None, None, None)] * len(archs)
    places = [i for i, arch in enumerate(archs) if arch.resolution == setup.resolution]
    model = load_latency(setup) if places else None
    if model is None:
        return result
    rows = setup.space.to_rows(archs[i] for i in places)
    predicted = model.predict(rows, model.cost(rows))
    columns = (predicted.latency_ms, predicted.low_ms, predicted.high_ms)
    for i, value, low, high in zip(places, *columns, strict=True):
        result[i] = (float(value), float(low), float(high))
    return result


def _by_space(archs: Sequence[Arch]) -> dict[ArchSpace, list[int]]:
    """Spaces at one resolution each, and which architectures belong to them."""
    result: dict[ArchSpace, list[int]] = {}
    for i, arch in enumerate(archs):
        result.setdefault(arch.space.at(arch.resolution), []).append(i)
    return result

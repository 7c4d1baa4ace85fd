"""The operator graph of an architecture: the one source of shapes, MACs, parameters, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import networkx as nx

from ofatvm.arch import Arch, ArchSpace, make_divisible

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator at batch size 1; shapes are NHWC, (1, channels) after a global mean.

    `kind` is one of input, conv, depthwise, pointwise, dense, mean, scale (multiply by a vector of
    channels) and add. `batch_norm` and `bias` say what the trained network has beside the weight;
    compiled code has the norm folded into weight and bias. A fused `activation` ("", "relu",
    "h_swish", "h_sigmoid") comes last.
    """

    kind: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: int = 1
    stride: int = 1
    activation: str = ""
    batch_norm: bool = False
    bias: bool = False

    @property
    def weight_shape(self) -> tuple[int, ...] | None:
        """HWIO for conv, (kernel, kernel, channels) for depthwise, (in, out) for the others."""
        channels_in, channels_out = self.in_shape[-1], self.out_shape[-1]
        if self.kind == "conv":
            return (self.kernel, self.kernel, channels_in, channels_out)
        if self.kind == "depthwise":
            return (self.kernel, self.kernel, channels_out)
        return (channels_in, channels_out) if self.kind in ("pointwise", "dense") else None

    @property
    def weight_count(self) -> int:
        """Elements of the weight tensor."""
        return _product(self.weight_shape) if self.weight_shape else 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and dense layers; all else counts as none."""
        pixels = _product(self.out_shape[1:-1])
        return self.weight_count * pixels

    @property
    def params(self) -> int:
        """Trainable parameters: weight, bias, and scale and shift of the batch norm."""
        extra = (2 if self.batch_norm else 0) + (1 if self.bias else 0)
        return self.weight_count + extra * self.out_shape[-1]

    @property
    def weight_bytes(self) -> int:
        """float32 bytes of what compiled code holds: weight, and the bias a folded norm leaves."""
        bias = self.out_shape[-1] if self.batch_norm or self.bias else 0
        return FLOAT_BYTES * (self.weight_count + bias)

    @property
    def out_bytes(self) -> int:
        """float32 bytes of the output tensor."""
        return FLOAT_BYTES * _product(self.out_shape)


def operator_graph(arch: Arch, resolution: int | None = None) -> nx.DiGraph[str]:
    """The operators of `arch` at `resolution` (its own by default) as a directed graph.

    Every node has an `operator` attribute; every edge a `shape`. Nodes are added in execution
    order. Names are `input`, `stem`, `first.*`, `stage1.block1.{expand, depthwise, se.mean,
    se.reduce, se.expand, se.scale, project, add}` and `head.{expand, mean, feature, classifier}`.
    """
    if resolution is not None:
        arch = arch.at(resolution)
    space = arch.space
    builder = _Builder(space.in_channels, arch.resolution)
    x = builder.conv("stem", "input", space.stem_width, 3, space.stem_stride, space.stem_activation)
    skip = x
    x = builder.depthwise("first.depthwise", x, 3, 1, space.first_activation)
    x = builder.pointwise("first.project", x, space.first_width, "")
    if space.first_width == space.stem_width:
        x = builder.add("first.add", x, skip)
    for stage, position, kernel, expand in arch.active_blocks():
        x = _block(builder, space, x, stage, position, kernel, expand)
    x = builder.pointwise("head.expand", x, space.head_width, space.head_activation)
    x = builder.mean("head.mean", x)
    x = builder.dense("head.feature", x, space.feature_width, space.head_activation, bias=False)
    builder.dense("head.classifier", x, space.classes, "", bias=True)
    return builder.graph


def _block(
    builder: _Builder,
    space: ArchSpace,
    x: str,
    stage: int,
    position: int,
    kernel: int,
    expand: int,
) -> str:
    spec = space.stages[stage]
    name = f"stage{stage + 1}.block{position + 1}"
    mid = space.mid_channels(stage, position, expand)
    skip = x
    x = builder.pointwise(f"{name}.expand", x, mid, spec.activation)
    stride = spec.stride if position == 0 else 1
    x = builder.depthwise(f"{name}.depthwise", x, kernel, stride, spec.activation)
    if spec.squeeze_excite:
        s = builder.mean(f"{name}.se.mean", x)
        s = builder.dense(f"{name}.se.reduce", s, make_divisible(mid // 4), "relu", bias=True)
        s = builder.dense(f"{name}.se.expand", s, mid, "h_sigmoid", bias=True)
        x = builder.scale(f"{name}.se.scale", x, s)
    x = builder.pointwise(f"{name}.project", x, spec.width, "")
    return builder.add(f"{name}.add", x, skip) if position > 0 else x


class _Builder:
    """Adds operators to a graph; each method returns the new node's name."""

    def __init__(self, channels: int, resolution: int) -> None:
        self.graph: nx.DiGraph[str] = nx.DiGraph()
        shape = (1, resolution, resolution, channels)
        self.graph.add_node("input", operator=Operator("input", shape, shape))

    def _shape(self, name: str) -> tuple[int, ...]:
        operator: Operator = self.graph.nodes[name]["operator"]
        return operator.out_shape

    def _add(self, name: str, inputs: tuple[str, ...], operator: Operator) -> str:
        self.graph.add_node(name, operator=operator)
        for source in inputs:
            self.graph.add_edge(source, name, shape=self._shape(source))
        return name

    def _conv(
        self, kind: str, name: str, x: str, width: int, kernel: int, stride: int, activation: str
    ) -> str:
        shape = self._shape(x)
        # Padding is kernel // 2 on every side.
        height, wide = ((size - 1) // stride + 1 for size in shape[1:3])
        out = (shape[0], height, wide, width)
        operator = Operator(kind, shape, out, kernel, stride, activation, batch_norm=True)
        return self._add(name, (x,), operator)

    def conv(self, name: str, x: str, width: int, kernel: int, stride: int, act: str) -> str:
        return self._conv("conv", name, x, width, kernel, stride, act)

    def depthwise(self, name: str, x: str, kernel: int, stride: int, activation: str) -> str:
        return self._conv("depthwise", name, x, self._shape(x)[-1], kernel, stride, activation)

    def pointwise(self, name: str, x: str, width: int, activation: str) -> str:
        return self._conv("pointwise", name, x, width, 1, 1, activation)

    def dense(self, name: str, x: str, width: int, activation: str, *, bias: bool) -> str:
        shape = self._shape(x)
        operator = Operator("dense", shape, (shape[0], width), activation=activation, bias=bias)
        return self._add(name, (x,), operator)

    def mean(self, name: str, x: str) -> str:
        shape = self._shape(x)
        return self._add(name, (x,), Operator("mean", shape, (shape[0], shape[-1])))

    def scale(self, name: str, x: str, factors: str) -> str:
        shape = self._shape(x)
        return self._add(name, (x, factors), Operator("scale", shape, shape))

    def add(self, name: str, x: str, skip: str) -> str:
        shape = self._shape(x)
        return self._add(name, (x, skip), Operator("add", shape, shape))


def operators(graph: nx.DiGraph[str]) -> dict[str, Operator]:
    """Node name -> Operator, in execution order."""
    return {name: data["operator"] for name, data in graph.nodes(data=True)}


@dataclass(frozen=True, slots=True)
class Totals:
    """What a whole network costs, whatever it runs on."""

    macs: int
    params: int
    weight_bytes: int
    peak_memory_bytes: int

    def to_dict(self) -> dict[str, int]:
        """Field name -> value."""
        return {name: getattr(self, name) for name in self.__slots__}


def totals(graph: nx.DiGraph[str]) -> Totals:
    """Sum a graph's MACs, parameters and weight bytes, and find its peak activation memory."""
    every = operators(graph).values()
    return Totals(
        macs=sum(operator.macs for operator in every),
        params=sum(operator.params for operator in every),
        weight_bytes=sum(operator.weight_bytes for operator in every),
        peak_memory_bytes=peak_memory_bytes(graph),
    )


def peak_memory_bytes(graph: nx.DiGraph[str]) -> int:
    """Largest sum of live float32 tensors over the execution order.

    A tensor lives from the operator that makes it to the last one that reads it. `scale` and `add`
    write over their first input when they are its last reader, as compiled code fuses them with
    the neighbouring convolution.
    """
    every = operators(graph)
    order = {name: index for index, name in enumerate(every)}
    last_use = {
        name: max((order[reader] for reader in graph.successors(name)), default=len(order))
        for name in every
    }
    live: dict[str, int] = {}
    peak = 0
    for name, operator in every.items():
        dying = [source for source in graph.predecessors(name) if last_use[source] == order[name]]
        if operator.kind in ("scale", "add") and dying:
            first = next(iter(graph.predecessors(name)))
            if first in dying:
                live.pop(first)
        live[name] = operator.out_bytes
        peak = max(peak, sum(live.values()))
        for source in dying:
            live.pop(source, None)
    return peak


def _product(values: Any) -> int:
    result = 1
    for value in values or ():
        result *= value
    return result

"""Which operators become one kernel: the fusion plan from an operator graph to kernel calls.

The plan is explicit instead of a compiler pass, so that the workloads of a whole search space can
be counted without lowering a single network, and every compiler sees the same kernels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import networkx as nx

from ofatvm.errors import RecordError
from ofatvm.graph import Operator, operators

_ACTIVATIONS = {"": "", "relu": "relu", "hswish": "h_swish", "hsigmoid": "h_sigmoid"}
_KEY = re.compile(
    r"(conv|depthwise|pointwise|dense|mean)(?:_k(\d)s(\d))?_(\d+(?:x\d+x\d+)?)(?:_(\d+))?"
    r"(?:_(relu|hswish|hsigmoid))?(_nobias)?(_scaled)?(_residual)?"
)


@dataclass(frozen=True, slots=True, order=True)
class Workload:
    """One distinct fused kernel at batch size 1: what is tuned, compiled and measured as a unit.

    Tensors are (height, width, channels), or (channels,) after a global mean. `scaled`: the input
    is multiplied by a vector of channels first (squeeze-excite). `residual`: a tensor of the
    output's shape is added last.
    """

    kind: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: int = 1
    stride: int = 1
    activation: str = ""
    bias: bool = True
    scaled: bool = False
    residual: bool = False

    @property
    def key(self) -> str:
        """Readable unique name, valid as a C symbol."""
        parts = [self.kind]
        if self.kind in ("conv", "depthwise"):
            parts.append(f"k{self.kernel}s{self.stride}")
        parts.append("x".join(map(str, self.in_shape)))
        if self.kind not in ("depthwise", "mean"):
            parts.append(str(self.out_shape[-1]))
        parts += [self.activation.replace("_", "")] if self.activation else []
        parts += ["nobias"] if not self.bias and self.kind != "mean" else []
        parts += ["scaled"] if self.scaled else []
        parts += ["residual"] if self.residual else []
        return "_".join(parts)

    @classmethod
    def parse(cls, key: str) -> Workload:
        """The workload of a `key`; RecordError if it is none."""
        match = _KEY.fullmatch(key)
        if not match:
            raise RecordError(f"not a workload: {key[:80]!r}")
        kind, kernel, stride, size, width, activation, nobias, scaled, residual = match.groups()
        in_shape = tuple(int(number) for number in size.split("x"))
        channels = int(width) if width else in_shape[-1]
        step = int(stride or 1)
        spatial = kind in ("conv", "depthwise", "pointwise")
        pixels = tuple((number - 1) // step + 1 for number in in_shape[:-1]) if spatial else ()
        workload = cls(
            kind=kind,
            in_shape=in_shape,
            out_shape=(*pixels, channels),
            kernel=int(kernel or 1),
            stride=step,
            activation=_ACTIVATIONS[activation or ""],
            bias=not nobias and kind != "mean",
            scaled=bool(scaled),
            residual=bool(residual),
        )
        if workload.key != key:
            raise RecordError(f"not a workload: {key[:80]!r}")
        return workload

    @property
    def operator(self) -> Operator:
        """The main operator, as it stands in the graph."""
        return Operator(
            self.kind, (1, *self.in_shape), (1, *self.out_shape), self.kernel, self.stride
        )

    @property
    def weight_shape(self) -> tuple[int, ...] | None:
        """As `Operator.weight_shape`."""
        return self.operator.weight_shape

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call."""
        return self.operator.macs

    @property
    def is_compute(self) -> bool:
        """Whether the kernel has a weight (convolutions and dense layers)."""
        return self.weight_shape is not None

    @property
    def argument_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the kernel's arguments: input, weight, bias, scale, residual, output."""
        shapes: list[tuple[int, ...]] = [self.in_shape]
        if self.weight_shape is not None:
            shapes.append(self.weight_shape)
            if self.bias:
                shapes.append((self.out_shape[-1],))
        if self.scaled:
            shapes.append((self.in_shape[-1],))
        if self.residual:
            shapes.append(self.out_shape)
        return (*shapes, self.out_shape)


@dataclass(frozen=True, slots=True)
class KernelCall:
    """One call of a kernel: `inputs` name the nodes it reads, `output` the one it makes.

    `inputs` holds the main input, then the scale vector and the residual where there are such;
    `weights` names the node the weight and bias belong to ("" for none).
    """

    workload: Workload
    inputs: tuple[str, ...]
    weights: str
    output: str


def kernel_calls(graph: nx.DiGraph[str]) -> list[KernelCall]:
    """The kernels of an operator graph in execution order.

    A `scale` is fused into the pointwise convolution that reads it, an `add` into the one that
    feeds it; everything else is a kernel of its own.
    """
    every = operators(graph)
    calls = []
    for name, operator in every.items():
        if operator.kind in ("input", "scale", "add"):
            continue
        inputs = list(graph.predecessors(name))
        scaled = every[inputs[0]].kind == "scale"
        if scaled:
            inputs = list(graph.predecessors(inputs[0]))
        output = name
        readers = list(graph.successors(name))
        residual = len(readers) == 1 and every[readers[0]].kind == "add"
        if residual and operator.kind == "pointwise":
            output = readers[0]
            inputs.append(next(p for p in graph.predecessors(output) if p != name))
        workload = Workload(
            kind=operator.kind,
            in_shape=operator.in_shape[1:],
            out_shape=operator.out_shape[1:],
            kernel=operator.kernel,
            stride=operator.stride,
            activation=operator.activation,
            bias=operator.batch_norm or operator.bias,
            scaled=scaled,
            residual=output != name,
        )
        weights = name if operator.weight_shape is not None else ""
        calls.append(KernelCall(workload, tuple(inputs), weights, output))
    return calls

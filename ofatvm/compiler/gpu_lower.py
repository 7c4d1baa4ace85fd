"""An operator graph as a Relax module whose `main` calls one scheduled kernel after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from ofatvm.compiler.plan import KernelCall, Workload, kernel_calls
from ofatvm.graph import operators

if TYPE_CHECKING:
    from tvm import IRModule, tirx

Weights = Mapping[str, tuple[np.ndarray, np.ndarray | None]]


def relax_module(
    graph: nx.DiGraph[str],
    kernel: Callable[[Workload], tirx.PrimFunc],
    weights: Weights | None = None,
) -> IRModule:
    """`main`: float32 (1, height, width, channels) -> float32 (1, classes).

    `kernel` gives a workload's function. Without `weights`, they are further arguments of `main`,
    of the shapes that `argument_shapes` gives. Every kernel's function is named by its workload's
    key.
    """
    from tvm import relax

    calls = kernel_calls(graph)
    shapes = argument_shapes(graph)
    names = ["x", *(f"weight{number}" for number in range(len(shapes) - 1))]
    every = [
        relax.Var(name, relax.TensorType(shape, "float32"))
        for name, shape in zip(names, shapes, strict=True)
    ]
    arguments = every if weights is None else every[:1]
    held = _constants(calls, weights) if weights is not None else iter(every[1:])
    builder = relax.BlockBuilder()
    functions = {
        workload: builder.add_func(
            kernel(workload).with_attr("global_symbol", workload.key), workload.key
        )
        for workload in sorted({call.workload for call in calls})
    }
    with builder.function("main", arguments):
        with builder.dataflow():
            tensors = {"input": builder.emit(relax.op.reshape(every[0], shapes[0][1:]))}
            for call in calls:
                workload = call.workload
                first, *others = (tensors[name] for name in call.inputs)
                own = [next(held) for _ in _weight_shapes(call)]
                made = relax.TensorType(workload.out_shape, "float32")
                called = relax.op.call_tir(functions[workload], [first, *own, *others], made)
                tensors[call.output] = builder.emit(called)
            last = calls[-1]
            result = relax.op.reshape(tensors[last.output], (1, *last.workload.out_shape))
            result = builder.emit_output(result)
        builder.emit_func_output(result)
    return builder.finalize()


def argument_shapes(graph: nx.DiGraph[str]) -> list[tuple[int, ...]]:
    """The shapes of the input, and of the weights and biases in the order of the calls."""
    shapes = [operators(graph)["input"].out_shape]
    for call in kernel_calls(graph):
        shapes += _weight_shapes(call)
    return shapes


def _weight_shapes(call: KernelCall) -> list[tuple[int, ...]]:
    if call.workload.weight_shape is None:
        return []
    bias = [(call.workload.out_shape[-1],)] if call.workload.bias else []
    return [call.workload.weight_shape, *bias]


def _constants(calls: list[KernelCall], weights: Weights) -> Any:
    from tvm import relax

    for call in calls:
        if call.weights:
            weight, bias = weights[call.weights]
            for array in [weight] if bias is None else [weight, bias]:
                yield relax.const(np.ascontiguousarray(array, dtype=np.float32))

"""Relax programs: an operator graph as a VM program that calls our kernels.

Measuring and shipping use one lowering. For measuring, the program calls kernels by name and takes
the weights as arguments, so that building it costs milliseconds; for shipping, kernels and packed
weights are compiled in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from ofatvm.compiler.kernels import Kernel
from ofatvm.compiler.plan import KernelCall, Workload, kernel_calls
from ofatvm.compiler.schedule import packed_shape, scheduled
from ofatvm.errors import CompileError
from ofatvm.graph import operators
from ofatvm.target import Target

if TYPE_CHECKING:
    from tvm import IRModule, relax

Weights = Mapping[str, tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True, slots=True)
class Program:
    """A subnet ready for measuring: a VM program, the kernels it calls, and its arguments' shapes.

    The first argument is the input (1, height, width, channels); the others are packed weights.
    """

    path: Path
    kernels: tuple[Kernel, ...]
    shapes: tuple[tuple[int, ...], ...]


def pack_weight(weight: np.ndarray, kernel: Kernel) -> np.ndarray:
    """The weight in the layout the kernel reads: (channel tiles, *all but channels, channels)."""
    shape = packed_shape(kernel.workload, kernel.config)
    assert shape is not None
    tiles = weight.reshape(*weight.shape[:-1], shape[0], shape[-1])
    return np.ascontiguousarray(np.moveaxis(tiles, -2, 0), dtype=np.float32)


def build_program(
    graph: nx.DiGraph[str], kernels: Mapping[Workload, Kernel], target: Target, path: Path
) -> Program:
    """Compile the program of a graph for measuring into `path`."""
    calls = kernel_calls(graph)
    module, shapes = _program_module(graph, calls, kernels, constants=None)
    _build(module, target, path)
    used = tuple(dict.fromkeys(kernels[call.workload] for call in calls))
    return Program(path, used, tuple(shapes))


def build_model(
    graph: nx.DiGraph[str],
    kernels: Mapping[Workload, Kernel],
    weights: Weights,
    target: Target,
    path: Path,
) -> None:
    """Compile a graph with its weights into one self-contained shared library at `path`.

    Entry point `main`: float32 (1, height, width, channels) -> float32 (1, classes).
    """
    calls = kernel_calls(graph)
    packed = {}
    for call in calls:
        if call.weights:
            weight, bias = weights[call.weights]
            packed[call.weights] = (pack_weight(weight, kernels[call.workload]), bias)
    module, _ = _program_module(graph, calls, kernels, constants=packed)
    _build(module, target, path)


def _program_module(
    graph: nx.DiGraph[str],
    calls: list[KernelCall],
    kernels: Mapping[Workload, Kernel],
    constants: Weights | None,
) -> tuple[IRModule, list[tuple[int, ...]]]:
    """The Relax module, and the shapes of main's arguments.

    Without `constants` the kernels are external functions and the weights are arguments.
    """
    from tvm import relax

    every = operators(graph)
    builder = relax.BlockBuilder()
    image = relax.Var("x", relax.TensorType(every["input"].out_shape, "float32"))
    arguments, shapes = [image], [every["input"].out_shape]
    functions: dict[Workload, Any] = {}

    def parameters(call: KernelCall) -> list[Any]:
        if not call.weights:
            return []
        if constants is not None:
            return [relax.const(array) for array in constants[call.weights] if array is not None]
        wanted = [packed_shape(call.workload, kernels[call.workload].config)]
        if call.workload.bias:
            wanted.append((call.workload.out_shape[-1],))
        found = []
        for shape in wanted:
            assert shape is not None
            # Opaque: a tensor's type would be checked again at every call, for a hundred weights.
            found.append(relax.Var(f"p{len(arguments)}", relax.ObjectType()))
            arguments.append(found[-1])
            shapes.append(shape)
        return found

    weights = [parameters(call) for call in calls]
    with builder.function("main", arguments):
        with builder.dataflow():
            shape = every["input"].out_shape[1:]
            tensors = {"input": builder.emit(relax.op.reshape(image, shape))}
            for call, extra in zip(calls, weights, strict=True):
                kernel = kernels[call.workload]
                inputs = [tensors[name] for name in call.inputs]
                inputs[1:1] = extra
                out_type = relax.TensorType(call.workload.out_shape, "float32")
                if constants is None:
                    value = relax.op.call_dps_packed(kernel.symbol, inputs, out_type)
                else:
                    if call.workload not in functions:
                        function = scheduled(call.workload, kernel.config).mod["main"]
                        functions[call.workload] = builder.add_func(
                            function.with_attr("global_symbol", kernel.symbol), kernel.symbol
                        )
                    value = relax.op.call_tir(functions[call.workload], inputs, out_type)
                tensors[call.output] = builder.emit(value)
            last = calls[-1]
            result = relax.op.reshape(tensors[last.output], (1, *last.workload.out_shape))
            output = builder.emit_output(result)
        builder.emit_func_output(output)
    return builder.finalize(), shapes


def _build(module: IRModule, target: Target, path: Path) -> None:
    from ofatvm.compiler.link import link_host

    try:
        executable = _executable(module, target)
        path.parent.mkdir(parents=True, exist_ok=True)
        executable.export_library(str(path), fcompile=link_host)
    except (RuntimeError, ValueError, TypeError) as error:
        text = str(error).strip().splitlines()
        raise CompileError(
            f"the program does not compile: {text[-1][:200] if text else ''}"
        ) from None


def _executable(module: IRModule, target: Target) -> relax.VMExecutable:
    import tvm
    from tvm import relax
    from tvm.relax.backend.cpu_generic import pipeline

    built_for = tvm.target.Target(target.to_dict())

    @tvm.transform.module_pass(opt_level=0)
    def passes(module: IRModule, _: Any) -> IRModule:
        # Kernels are fused and scheduled already: only the calls between them are left to lower.
        steps = pipeline.dataflow_lower_passes(built_for) + pipeline.finalize_passes(built_for)
        with built_for:
            return tvm.transform.Sequential(steps)(module)

    return relax.build(module, built_for, relax_pipeline=passes)

"""Programs of whole networks: an operator graph over the kernel library.

Measuring and shipping link the same kernels and the same calls. For measuring, weights are an
argument, so that building a network costs milliseconds; for shipping, they are part of the library,
which is a Relax executable whose `main` allocates the workspace and calls the program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from ofatvm.compiler.base import CompiledKernel
from ofatvm.compiler.kernels import Kernel, entry
from ofatvm.compiler.link import check_linked, link
from ofatvm.compiler.memory import FLOAT_BYTES, MemoryPlan, aligned, plan_workspace
from ofatvm.compiler.plan import KernelCall, Workload, kernel_calls
from ofatvm.compiler.program import FORWARD, Base, Step, call_run, compile_program
from ofatvm.compiler.schedule import packed_shape
from ofatvm.errors import CompileError
from ofatvm.files import scratch
from ofatvm.graph import operators
from ofatvm.target import Target

if TYPE_CHECKING:
    from tvm import IRModule

Weights = Mapping[str, tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True, slots=True)
class Program:
    """A subnet ready for measuring: a library with the packed function `forward`.

    `steps` are its kernel calls, from which a device that links for itself does so: then there is
    no file at `path`. `sizes`: how many numbers input, weights, workspace and output have. A GPU's
    library has `main` instead, which takes tensors of `shapes`; its kernels stand nowhere.
    """

    path: Path
    kernels: tuple[CompiledKernel, ...]
    sizes: tuple[int, ...]
    steps: tuple[Step, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()


def pack_weight(weight: np.ndarray, kernel: Kernel) -> np.ndarray:
    """The weight in the layout the kernel reads: (channel tiles, *all but channels, channels)."""
    shape = packed_shape(kernel.workload, kernel.config)
    assert shape is not None
    filled = shape[0] * shape[-1] - weight.shape[-1]
    weight = np.pad(weight, [*[(0, 0)] * (weight.ndim - 1), (0, filled)])
    tiles = weight.reshape(*weight.shape[:-1], shape[0], shape[-1])
    return np.ascontiguousarray(np.moveaxis(tiles, -2, 0), dtype=np.float32)


def pack_weights(
    graph: nx.DiGraph[str], kernels: Mapping[Workload, Kernel], weights: Weights
) -> np.ndarray:
    """All weights and biases of a network as its program reads them: one flat float32 array."""
    calls = kernel_calls(graph)
    places, size = _weight_places(calls, kernels)
    flat = np.zeros(size // FLOAT_BYTES, dtype=np.float32)
    for call in calls:
        if not call.weights:
            continue
        weight, bias = weights[call.weights]
        arrays = [pack_weight(weight, kernels[call.workload])] + ([] if bias is None else [bias])
        for place, array in zip(places[call.weights], arrays, strict=True):
            start = place // FLOAT_BYTES
            flat[start : start + array.size] = array.ravel()
    return flat


def build_program(
    graph: nx.DiGraph[str], kernels: Mapping[Workload, Kernel], target: Target, path: Path
) -> Program:
    """Link the program of a graph for measuring at `path`."""
    program = plan_program(graph, kernels, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_suffix(".o")
    compile_program(program.steps, target, own)
    folder = program.kernels[0].path.parent
    objects = [
        entry(target, folder),
        own,
        *(path for kernel in program.kernels for path in kernel.objects),
    ]
    link(target, str(path), [str(name) for name in objects])
    own.unlink()
    return program


def plan_program(graph: nx.DiGraph[str], kernels: Mapping[Workload, Kernel], path: Path) -> Program:
    """The program of a graph, which is not linked yet."""
    calls = kernel_calls(graph)
    workspace = plan_workspace(calls)
    every = operators(graph)
    sizes = (
        math.prod(every["input"].out_shape),
        _weight_places(calls, kernels)[1] // FLOAT_BYTES,
        workspace.size_bytes // FLOAT_BYTES,
        math.prod(calls[-1].workload.out_shape),
    )
    steps = _steps(calls, kernels, workspace)
    return Program(path, tuple(_used(calls, kernels)), sizes, tuple(steps))


def build_model(
    graph: nx.DiGraph[str],
    kernels: Mapping[Workload, Kernel],
    weights: Weights,
    target: Target,
    path: Path,
) -> None:
    """Link a graph with its weights into one self-contained shared library at `path`.

    Entry point `main`: float32 (1, height, width, channels) -> float32 (1, classes).
    """
    calls = kernel_calls(graph)
    workspace = plan_workspace(calls)
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch("model") as folder:
        packed = folder / "weights.bin"
        pack_weights(graph, kernels, weights).tofile(packed)
        own = folder / "program.o"
        compile_program(_steps(calls, kernels, workspace), target, own, weights=packed)
        objects = [own, *(kernel.object_path for kernel in _used(calls, kernels))]
        in_shape = operators(graph)["input"].out_shape
        out_shape = (1, *calls[-1].workload.out_shape)
        module = _relax_module(in_shape, workspace.size_bytes // FLOAT_BYTES, out_shape)
        _export(module, target, [str(name) for name in objects], path)
    check_linked(path, target)


def _used(calls: Sequence[KernelCall], kernels: Mapping[Workload, Kernel]) -> list[Kernel]:
    return list(dict.fromkeys(kernels[call.workload] for call in calls))


def _weight_places(
    calls: Sequence[KernelCall], kernels: Mapping[Workload, Kernel]
) -> tuple[dict[str, list[int]], int]:
    """Byte offsets of each node's weight and bias, in the order of the calls, and the end."""
    places: dict[str, list[int]] = {}
    end = 0
    for call in calls:
        workload = call.workload
        shape = packed_shape(workload, kernels[workload].config)
        if shape is None:
            continue
        places[call.weights] = [end]
        end += aligned(FLOAT_BYTES * math.prod(shape))
        if workload.bias:
            places[call.weights].append(end)
            end += aligned(FLOAT_BYTES * workload.out_shape[-1])
    return places, end


def _steps(
    calls: Sequence[KernelCall], kernels: Mapping[Workload, Kernel], workspace: MemoryPlan
) -> list[Step]:
    places, _ = _weight_places(calls, kernels)
    tensors: dict[str, tuple[Base, int]] = {"input": ("x", 0), calls[-1].output: ("out", 0)}
    tensors |= {name: ("workspace", offset) for name, offset in workspace.offsets.items()}
    steps = []
    for call in calls:
        kernel = kernels[call.workload]
        first, *others = (tensors[name] for name in call.inputs)
        held: list[tuple[Base, int]] = [("weights", at) for at in places.get(call.weights, [])]
        arguments = (first, *held, *others, tensors[call.output])
        steps.append(Step(kernel.symbol, bool(kernel.config.parallel), arguments))
    return steps


def _relax_module(
    in_shape: tuple[int, ...], workspace: int, out_shape: tuple[int, ...]
) -> IRModule:
    """`main`, which calls the linked program with its input, a workspace and its output."""
    from tvm import relax, te, tirx

    x = te.placeholder(in_shape, "float32", name="x")

    def run(ins: Any, outs: Any) -> object:
        image, (space, out) = ins[0].data, (buffer.data for buffer in outs)
        # The weights are part of the program: their argument is not read.
        return call_run(tirx.const(1, "int32"), image, image, space, out)

    shapes = [(max(1, workspace),), out_shape]
    outputs = te.extern(shapes, [x], run, name="run", dtype=["float32", "float32"])
    forward = te.create_prim_func([x, *outputs]).with_attr("global_symbol", FORWARD)
    builder = relax.BlockBuilder()
    image = relax.Var("x", relax.TensorType(in_shape, "float32"))
    with builder.function("main", [image]):
        with builder.dataflow():
            types = [relax.TensorType(shape, "float32") for shape in shapes]
            called = relax.op.call_tir(builder.add_func(forward, FORWARD), [image], types)
            result = builder.emit_output(relax.TupleGetItem(builder.emit(called), 1))
        builder.emit_func_output(result)
    return builder.finalize()


def _export(module: IRModule, target: Target, objects: list[str], path: Path) -> None:
    import tvm
    from tvm import relax
    from tvm.relax.backend.cpu_generic import pipeline

    built_for = tvm.target.Target(target.to_dict())

    @tvm.transform.module_pass(opt_level=0)
    def passes(module: IRModule, _: Any) -> IRModule:
        # Kernels are compiled already: only the call of their program is left to lower.
        steps = pipeline.dataflow_lower_passes(built_for) + pipeline.finalize_passes(built_for)
        with built_for:
            return tvm.transform.Sequential(steps)(module)

    try:
        executable = relax.build(module, built_for, relax_pipeline=passes)
        executable.export_library(str(path), fcompile=partial(link, target, extra=objects))
    except (RuntimeError, ValueError, TypeError) as error:
        text = str(error).strip().splitlines()
        raise CompileError(
            f"the program does not compile: {text[-1][:200] if text else ''}"
        ) from None

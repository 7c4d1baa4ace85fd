"""Networks for NVIDIA GPUs: one shared library with the kernels' machine code and host code.

The kernels are those of `primfunc`, the same workloads as on a CPU, under the schedules of tuning
records or under default ones (`gpu_schedule`). They are compiled when the network is built, so that
a broken one is found then and not on the board. Nothing here runs a kernel; that needs a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx

from ofatvm.compiler.gpu_lower import Weights, argument_shapes, relax_module
from ofatvm.compiler.gpu_measure import KERNEL
from ofatvm.compiler.gpu_nvcc import Format, MachineCode, arch_number, compile_kernels
from ofatvm.compiler.gpu_pack import write_imports
from ofatvm.compiler.gpu_schedule import gpu_kernel
from ofatvm.compiler.gpu_space import DEFAULT, kernel_of
from ofatvm.compiler.link import check_linked, link
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.primfunc import workload_module
from ofatvm.errors import CompileError
from ofatvm.target import Target

if TYPE_CHECKING:
    import tvm
    from tvm import IRModule, tirx

NOT_RUN = "no kernel was run: the network was built without its GPU"
# Set while TVM builds, so that kernels stay source on a machine with a GPU, too.
_KEEP_SOURCE = "TVM_COMPILE_FORCE_FALLBACK"


@dataclass(frozen=True, slots=True)
class GpuBuild:
    """A built network: notes (sentences without a dot) belong in the manifest.

    `kernels` is their number; `format` says what they are in the library: machine code (cubin),
    PTX that the driver translates, or CUDA source.
    """

    path: Path
    notes: tuple[str, ...]
    kernels: int
    format: Format


@dataclass(frozen=True, slots=True)
class GpuProgram:
    """A network for measuring: `main` takes tensors of these shapes, the input and all weights."""

    build: GpuBuild
    shapes: tuple[tuple[int, ...], ...]


def build_gpu_model(
    graph: nx.DiGraph[str],
    weights: Weights,
    target: Target,
    path: Path,
    traces: Mapping[str, str] | None = None,
) -> GpuBuild:
    """Link a graph with its weights into one self-contained shared library at `path`.

    `traces`: schedules of workloads by their keys; all others have the default. Entry point `main`:
    float32 (1, height, width, channels) -> float32 (1, classes), both on the GPU. CompileError
    names a kernel that does not compile; TargetError if there is no arch.
    """
    return _build(graph, weights, target, path, traces or {})


def build_gpu_program(
    graph: nx.DiGraph[str], target: Target, path: Path, traces: Mapping[str, str] | None = None
) -> GpuProgram:
    """Link a graph for measuring: the weights are arguments, so that no board is sent any.

    For an llvm target kernels are not scheduled: that serves tests on machines without a GPU.
    """
    build = _build(graph, None, target, path, traces or {})
    return GpuProgram(build, tuple(argument_shapes(graph)))


def build_gpu_kernel(workload: Workload, trace: str, target: Target, path: str) -> None:
    """Link one kernel alone, as the function `KERNEL`; for tuning, see `build_gpu_program`."""
    import tvm
    from tvm import tirx

    built_for = tvm.target.Target(target.to_dict())
    function = _kernels(built_for, {workload.key: trace})(workload)
    module = tvm.IRModule({KERNEL: function.with_attr("global_symbol", KERNEL)})
    with _source_kept():
        built = tirx.build(module, target=built_for)
    cuda = _find(built, "cuda")
    code = None if cuda is None else compile_kernels(str(cuda.inspect_source()), target.arch)
    _export(built, target, Path(path), code)


def _build(
    graph: nx.DiGraph[str],
    weights: Weights | None,
    target: Target,
    path: Path,
    traces: Mapping[str, str],
) -> GpuBuild:
    import tvm

    if target.kind == "cuda":
        arch_number(target.arch)
    built_for = tvm.target.Target(target.to_dict())
    module = relax_module(graph, _kernels(built_for, traces), weights)
    kernels = len(module.functions) - 1
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        built = _compile(module, built_for).mod
        cuda = _find(built, "cuda")
        if cuda is None:
            _export(built, target, path, None)
            return GpuBuild(path, (), kernels, "source")
        source = str(cuda.inspect_source())
    except (RuntimeError, ValueError, TypeError) as error:
        text = str(error).strip().splitlines()
        raise CompileError(
            f"the network does not compile for {target.name}: {text[-1][:200] if text else ''}"
        ) from None
    code = compile_kernels(source, target.arch)
    _export(built, target, path, code)
    return GpuBuild(path, (*code.notes, NOT_RUN), kernels, code.format)


def _kernels(
    target: tvm.target.Target, traces: Mapping[str, str]
) -> Callable[[Workload], tirx.PrimFunc]:
    def kernel(workload: Workload) -> tirx.PrimFunc:
        trace = traces.get(workload.key, DEFAULT)
        if target.kind.name == "cuda":
            return gpu_kernel(workload, target, trace)
        return kernel_of(workload, trace) if trace else workload_module(workload)["main"]

    return kernel


def _compile(module: IRModule, target: tvm.target.Target) -> Any:
    """TVM's passes for a module of kernels that are scheduled already."""
    import tvm
    from tvm import relax

    if target.kind.name == "cuda":
        from tvm.relax.backend.cuda import pipeline
    else:
        from tvm.relax.backend.cpu_generic import pipeline

    @tvm.transform.module_pass(opt_level=0)
    def passes(module: IRModule, _: Any) -> IRModule:
        steps = pipeline.dataflow_lower_passes(target) + pipeline.finalize_passes(target)
        with target:
            return tvm.transform.Sequential(steps)(module)

    with _source_kept():
        return relax.build(module, target, relax_pipeline=passes)


def _export(module: Any, target: Target, path: Path, code: MachineCode | None) -> None:
    # Who calls the kernels: an unnamed CPU is this machine's.
    host = target if target.kind == "llvm" else target.host or Target(name="host")

    def packed(packing: Any, _system: bool, _prefix: str, folder: str) -> str:
        made = Path(folder) / "imports.o"
        write_imports(packing, code, host, made)
        return str(made)

    linked = partial(link, target)
    module.export_library(str(path), fcompile=linked, fpack_imports=packed)
    check_linked(path, target)


def _find(module: Any, kind: str) -> Any:
    """The first module of a kind in a tree of modules."""
    if module.kind == kind:
        return module
    found = (_find(child, kind) for child in module.imports)
    return next((child for child in found if child is not None), None)


@contextmanager
def _source_kept() -> Iterator[None]:
    before = os.environ.get(_KEEP_SOURCE)
    os.environ[_KEEP_SOURCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_KEEP_SOURCE]
        else:
            os.environ[_KEEP_SOURCE] = before

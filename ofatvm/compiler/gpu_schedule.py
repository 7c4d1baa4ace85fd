"""A GPU's kernels: by a tuning record, or by dlight's rules and one of our own for depthwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ofatvm.compiler.gpu_space import DEFAULT, kernel_of
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.primfunc import workload_module
from ofatvm.errors import CompileError

if TYPE_CHECKING:
    import tvm
    from tvm import tirx

BLOCK_THREADS = 128


def gpu_kernel(
    workload: Workload, target: tvm.target.Target, trace: str = DEFAULT
) -> tirx.PrimFunc:
    """A workload's function as one GPU kernel, under a trace or the default schedule.

    CompileError where no schedule gives that, RecordError for a trace that does not apply.
    """
    if trace != DEFAULT:
        function = kernel_of(workload, trace)
        if bound_nests(function) != 1:
            raise CompileError(
                f"a tuning record does not make one kernel of {workload.key}",
                hint="give another --tuning-logs folder; `ofatvm tune` makes records",
            )
        return function.with_attr("tirx.is_scheduled", True)
    return _default(workload, target)


def _default(workload: Workload, target: tvm.target.Target) -> tirx.PrimFunc:
    from tvm.s_tir import dlight

    gpu = dlight.gpu
    reductions = (gpu.GEMV(), gpu.Reduction(), gpu.GeneralReduction())
    rules = (gpu.Matmul(),) if workload.kind in ("conv", "pointwise") else reductions
    function = None
    # dlight takes a depthwise convolution for a reduction and starts a block of 256 threads for
    # each output, of which as many have work as the window has pixels.
    if workload.kind != "depthwise":
        with target:
            module = dlight.ApplyDefaultSchedule(*rules)(workload_module(workload))
        function = module["main"]
    if function is None or bound_nests(function) != 1:
        function = _output_per_thread(workload)
    if bound_nests(function) != 1:
        raise CompileError(
            f"no GPU schedule makes one kernel of {workload.key}",
            hint="compile for an llvm target, or report it with this architecture",
        )
    return function.with_attr("tirx.is_scheduled", True)


def bound_nests(function: tirx.PrimFunc) -> int:
    """The number of loop nests bound to GPU blocks, each a kernel; 0 if anything is outside."""
    from tvm import s_tir, tirx

    body = function.body
    if isinstance(body, s_tir.SBlockRealize):
        body = body.block.body
    nests = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]

    def bound(statement: object) -> bool:
        if not isinstance(statement, tirx.For):
            return False
        binding = statement.thread_binding
        tag = "" if binding is None else str(binding.thread_tag)
        return tag.startswith("blockIdx") or bound(statement.body)

    return len(nests) if all(bound(nest) for nest in nests) else 0


def _output_per_thread(workload: Workload) -> tirx.PrimFunc:
    """One output a thread, neighbours in channels."""
    from tvm import s_tir

    sch = s_tir.Schedule(workload_module(workload))
    if workload.scaled:
        sch.compute_inline(sch.get_sblock("scaled"))
    if workload.kernel > 1:
        sch.compute_inline(sch.get_sblock("pad"))
    out, accumulate = sch.get_sblock("out"), sch.get_sblock("accumulate")
    blocks, threads = sch.split(sch.fuse(*sch.get_loops(out)), [None, BLOCK_THREADS])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(threads, "threadIdx.x")
    sch.compute_at(accumulate, threads)
    sch.set_scope(accumulate, 0, "local")
    if workload.kind == "depthwise":
        for loop in sch.get_loops(accumulate)[2:]:
            sch.unroll(loop)
    return sch.mod["main"]

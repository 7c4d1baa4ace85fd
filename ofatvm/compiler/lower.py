"""Scheduled kernels as machine code: C functions that compute one thread's share of a workload.

A kernel is `void kernel(int32 task, int32 tasks, float *argument...)` and computes part `task` of
`tasks`; a program calls it from threads that it starts once for a whole network. TVM's own calling
convention would start and join threads and check every argument at each of a hundred kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig, scheduled

if TYPE_CHECKING:
    import tvm
    from tvm import IRModule, tirx

# TVM's mark of a function that is called with plain values, not through its packed convention.
PLAIN_CALL = 2


def compile_kernel(
    workload: Workload,
    config: ScheduleConfig,
    symbol: str,
    target: tvm.target.Target,
    path: Path,
) -> None:
    """Write the object file of a workload's kernel under a schedule, with one global `symbol`."""
    import tvm
    from tvm import tirx

    lowered = _lowered(scheduled(workload, config).mod, target)["main"]
    function = _thread_share(lowered).with_attr("global_symbol", symbol)
    function = function.with_attr("target", target)
    module = tirx.transform.LowerIntrin()(tvm.IRModule({symbol: function}))
    machine_code = tvm.get_global_func("target.build.llvm")(module, target)
    machine_code.write_to_file(str(path), "o")


def _lowered(module: IRModule, target: tvm.target.Target) -> IRModule:
    """The passes of TVM's default pipeline that matter to a CPU, up to its packed convention."""
    import tvm
    from tvm import s_tir, tirx

    s, x = s_tir.transform, tirx.transform
    steps = [
        *(x.BindTarget(target.with_host(target)), s.CanonicalizeLoop(), s.LowerInitBlock()),
        *(s.PlanAndUpdateBufferAllocationLocation(), s.ConvertBlocksToOpaque()),
        *(s.CompactBufferAllocation(), s.LowerMatchBuffer(), x.StmtSimplify()),
        *(s.LowerOpaqueBlock(), x.FlattenBuffer(), x.NarrowDataType(32), s.LoopPartition()),
        *(x.VectorizeLoop(True), x.StorageRewrite(), s.HoistIfThenElse(), x.UnrollLoop()),
        *(s.RenormalizeSplitPattern(), x.StmtSimplify(), x.RemoveNoOp()),
        *(s.RewriteUnsafeSelect(), x.CommonSubexprElim()),
    ]
    with target:
        return tvm.transform.Sequential(steps)(module)


def _thread_share(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with raw pointers for tensors, whose parallel loop runs over its share.

    Temporaries stay on the stack: LLVM keeps register tiles in registers, and what is left is a
    padded copy of some rows at most.
    """
    from tvm import tirx
    from tvm.tirx.buffer import buffer_data_pointer_type

    task, tasks = tirx.Var("task", "int32"), tirx.Var("tasks", "int32")
    pointers = [tirx.Var(f"{b.name}_data", buffer_data_pointer_type(b)) for b in function.params]
    declared = [
        tirx.DeclBuffer(buffer, data=pointer)
        for buffer, pointer in zip(function.params, pointers, strict=True)
    ]

    def share(statement: Any) -> Any:
        if isinstance(statement, tirx.SeqStmt):
            return tirx.SeqStmt([share(child) for child in statement.seq])
        if isinstance(statement, tirx.For) and statement.kind == tirx.ForKind.PARALLEL:
            # Neither can be negative, and floor division would be lowered to code for that.
            first = tirx.truncdiv(task * statement.extent, tasks)
            end = tirx.truncdiv((task + 1) * statement.extent, tasks)
            index, body = statement.loop_var, statement.body
            return tirx.For(index, first, end - first, tirx.ForKind.SERIAL, body)
        return statement

    body = tirx.SeqStmt([*declared, share(function.body)])
    plain = tirx.PrimFunc([task, tasks, *pointers], body)
    return plain.with_attr("tirx.noalias", True).with_attr("calling_conv", PLAIN_CALL)

"""Programs: a list of kernel calls as one function that starts its threads once.

The function is written as LLVM IR. Each thread computes its share of every kernel, and between
kernels the threads meet at a barrier, which takes a fraction of the time of starting and joining
them. Kernels for one thread follow each other without a barrier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ofatvm.compiler.llvm import compile_ir, pause
from ofatvm.target import Target

if TYPE_CHECKING:
    import tvm

RUN = "ofatvm_run"
WEIGHTS = "ofatvm_weights"
FORWARD = "forward"
# A waiting thread looks this often before it lets others have its core: tens of microseconds.
SPINS = 2000

Base = Literal["x", "weights", "workspace", "out"]


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call: its symbol, whether it is shared by threads, and where its arguments are.

    An argument is a base and a byte offset from it.
    """

    symbol: str
    parallel: bool
    arguments: tuple[tuple[Base, int], ...]


def compile_program(
    steps: Sequence[Step], target: Target, path: Path, *, weights: Path | None = None
) -> None:
    """Write the object file of `ofatvm_run(int32 repeats, x, weights, workspace, out)`.

    It runs all steps `repeats` times. With a file of `weights` these are compiled in, and the
    argument is not used.
    """
    compile_ir(_module(steps, target, weights), target, path)


def compile_entry(target: tvm.target.Target, path: Path) -> None:
    """Write the object file of TVM's packed function `forward`, which calls `ofatvm_run`.

    Its arguments are repeats, x, weights, workspace and out; all tensors are flat float32.
    """
    import tvm
    from tvm import te, tirx

    repeats = tirx.Var("repeats", "int32")
    tensors = [
        te.placeholder((tirx.Var(f"{name}_size", "int64"),), "float32", name=name)
        for name in ("x", "weights", "workspace")
    ]
    out = te.extern(
        [(tirx.Var("out_size", "int64"),)],
        tensors,
        lambda ins, outs: call_run(repeats, *(buffer.data for buffer in (*ins, *outs))),
        name="out",
        dtype="float32",
    )
    function = te.create_prim_func([repeats, *tensors, out]).with_attr("global_symbol", FORWARD)
    module = tirx.build(tvm.IRModule({FORWARD: function}), target=target)
    module.write_to_file(str(path), "o")


def call_run(*arguments: object) -> object:
    """The TIR statement that calls `ofatvm_run`."""
    from tvm import tirx

    return tirx.Evaluate(tirx.call_extern("int32", RUN, *arguments))


def _module(steps: Sequence[Step], target: Target, weights: Path | None) -> str:
    declared = {
        step.symbol: f"declare void @{step.symbol}({', '.join(['i32', 'i32', *_pointers(step)])})"
        for step in steps
    }
    wait = pause(target)
    spin = f'  call void asm sideeffect "{wait}", "~{{memory}}"()\n' if wait else ""
    parts = [
        _RUNTIME.replace("@PAUSE@", spin).replace("@SPINS@", str(SPINS)),
        *declared.values(),
        _embedded(weights) if weights else "",
        _TASK.replace("@WEIGHTS@", _weights_pointer(weights)).replace("@STEPS@", _body(steps)),
    ]
    return "\n".join(parts)


def _pointers(step: Step) -> list[str]:
    return ["ptr"] * len(step.arguments)


def _embedded(weights: Path) -> str:
    # The assembler's escapes inside LLVM's: what it cannot read ends the process.
    name = str(weights).replace("\\", "\\5C\\5C").replace('"', "\\5C\\22")
    lines = [
        ".section .rodata.weights,\\22a\\22",
        f".hidden {WEIGHTS}",
        f".globl {WEIGHTS}",
        ".balign 64",
        f"{WEIGHTS}:",
        f".incbin \\22{name}\\22",
        ".text",
    ]
    assembly = "\n".join(f'module asm "{line}"' for line in lines)
    return f"{assembly}\n@{WEIGHTS} = external hidden constant i8"


def _weights_pointer(weights: Path | None) -> str:
    if weights:
        return f"  %weights = getelementptr i8, ptr @{WEIGHTS}, i64 0"
    return (
        "  %weights.at = getelementptr %job, ptr %job, i32 0, i32 3\n"
        "  %weights = load ptr, ptr %weights.at"
    )


def _body(steps: Sequence[Step]) -> str:
    """Calls in order, each in blocks of its own; `%e{n}` counts the arrivals waited for."""
    lines: list[str] = []
    meetings = 0
    for number, step in enumerate(steps):
        following = steps[number + 1] if number + 1 < len(steps) else None
        arguments = []
        for place, (base, offset) in enumerate(step.arguments):
            name = f"%a{number}.{place}"
            lines.append(f"  {name} = getelementptr i8, ptr %{base}, i64 {offset}")
            arguments.append(f"ptr {name}")
        if step.parallel:
            words = ", ".join(["i32 %task", "i32 %tasks", *arguments])
            lines.append(f"  call void @{step.symbol}({words})")
        else:
            words = ", ".join(["i32 0", "i32 1", *arguments])
            lines += [
                f"  br i1 %first, label %do{number}, label %done{number}",
                f"do{number}:",
                f"  call void @{step.symbol}({words})",
                f"  br label %done{number}",
                f"done{number}:",
            ]
        if not step.parallel and following is not None and not following.parallel:
            continue
        before = "%epoch" if meetings == 0 else f"%e{meetings}"
        meetings += 1
        lines.append(f"  %e{meetings} = add i32 {before}, %tasks")
        lines.append(f"  call void @barrier(ptr %arrived, i32 %e{meetings}, i32 %tasks)")
    lines.append(f"  %epoch.next = add i32 %e{meetings}, 0")
    return "\n".join(lines)


# TVM fills in the pointer when it loads the library, as for kernels of its own. Counting arrivals
# may wrap around, so differences are compared. The counter has a cache line to itself.
_RUNTIME = """
%job = type { [16 x i32], i32, ptr, ptr, ptr, ptr }
@__TVMBackendParallelLaunch = linkonce dllexport local_unnamed_addr global ptr null, align 8
declare i32 @sched_yield()

define internal void @barrier(ptr %arrived, i32 %wanted, i32 %tasks) noinline {
  %alone = icmp eq i32 %tasks, 1
  br i1 %alone, label %met, label %meet
meet:
  %before = atomicrmw add ptr %arrived, i32 1 acq_rel
  br label %look
look:
  %spins = phi i32 [ 0, %meet ], [ %more, %wait ], [ 0, %rest ]
  %seen = load atomic i32, ptr %arrived acquire, align 4
  %ahead = sub i32 %seen, %wanted
  %there = icmp sge i32 %ahead, 0
  br i1 %there, label %met, label %spin
spin:
  %long = icmp ugt i32 %spins, @SPINS@
  br i1 %long, label %rest, label %wait
wait:
@PAUSE@  %more = add i32 %spins, 1
  br label %look
rest:
  %ignored = call i32 @sched_yield()
  br label %look
met:
  ret void
}
"""
_TASK = """
define internal i32 @run_task(i32 %task, ptr %group, ptr %job) {
entry:
  %tasks.at = getelementptr { ptr, i32 }, ptr %group, i32 0, i32 1
  %tasks = load i32, ptr %tasks.at
  %first = icmp eq i32 %task, 0
  %arrived = getelementptr %job, ptr %job, i32 0, i32 0
  %repeats.at = getelementptr %job, ptr %job, i32 0, i32 1
  %repeats = load i32, ptr %repeats.at
  %x.at = getelementptr %job, ptr %job, i32 0, i32 2
  %x = load ptr, ptr %x.at
@WEIGHTS@
  %workspace.at = getelementptr %job, ptr %job, i32 0, i32 4
  %workspace = load ptr, ptr %workspace.at
  %out.at = getelementptr %job, ptr %job, i32 0, i32 5
  %out = load ptr, ptr %out.at
  br label %again
again:
  %epoch = phi i32 [ 0, %entry ], [ %epoch.next, %repeated ]
  %round = phi i32 [ 0, %entry ], [ %round.next, %repeated ]
@STEPS@
  br label %repeated
repeated:
  %round.next = add i32 %round, 1
  %enough = icmp sge i32 %round.next, %repeats
  br i1 %enough, label %end, label %again
end:
  ret i32 0
}

define hidden i32 @ofatvm_run(i32 %repeats, ptr %x, ptr %weights, ptr %workspace, ptr %out) {
  %job = alloca %job, align 64
  %arrived = getelementptr %job, ptr %job, i32 0, i32 0
  store atomic i32 0, ptr %arrived release, align 4
  %repeats.at = getelementptr %job, ptr %job, i32 0, i32 1
  store i32 %repeats, ptr %repeats.at
  %x.at = getelementptr %job, ptr %job, i32 0, i32 2
  store ptr %x, ptr %x.at
  %weights.at = getelementptr %job, ptr %job, i32 0, i32 3
  store ptr %weights, ptr %weights.at
  %workspace.at = getelementptr %job, ptr %job, i32 0, i32 4
  store ptr %workspace, ptr %workspace.at
  %out.at = getelementptr %job, ptr %job, i32 0, i32 5
  store ptr %out, ptr %out.at
  %launch = load ptr, ptr @__TVMBackendParallelLaunch
  %failed = call i32 %launch(ptr @run_task, ptr %job, i32 0)
  ret i32 %failed
}
"""

"""Guest programs: the steps of a network, linked with their kernels into one static executable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ofatvm.compiler.llvm import compile_ir
from ofatvm.compiler.program import Base, Step
from ofatvm.device.simulator.tools import Tools, lld, run
from ofatvm.files import scratch
from ofatvm.target import Target

BASES: tuple[Base, ...] = ("x", "weights", "workspace", "out")
MAX_ARGUMENTS = 8
APART, NETWORK = 0x700_0000, 0x800_0000
"""Where the code of guest.c that is not counted lies, and from where on the network's does."""
FLOAT_BYTES = 4


def link_guest(
    tools: Tools,
    target: Target,
    steps: Sequence[Step],
    sizes: Sequence[int],
    objects: Iterable[Path],
    path: Path,
    *,
    passes: int,
) -> None:
    """Write the executable that runs the steps `passes` times, with marks for the plugin.

    `sizes` are the float32 numbers of input, weights, workspace and output; steps that are shared
    by threads are run once for each of the target's threads, one after another.
    """
    with scratch("guest") as folder:
        table = folder / "steps.o"
        compile_ir(_table(steps, sizes, target.threads, passes), target, table)
        flags = ["-static", "-e", "_start", "-z", "noexecstack", "--no-warnings"]
        flags += [f"--section-start=.ofatvm={APART:#x}", f"--section-start=.text={NETWORK:#x}"]
        run([*lld(), *flags, "-o", path, tools.guest, table, *objects], "linking a simulation")


def _table(steps: Sequence[Step], sizes: Sequence[int], tasks: int, passes: int) -> str:
    """What guest.c declares, as LLVM IR."""
    symbols = dict.fromkeys(step.symbol for step in steps)
    rows = []
    for step in steps:
        filled = [*step.arguments, *[("x", 0)] * (MAX_ARGUMENTS - len(step.arguments))]
        bases = ", ".join(f"i32 {BASES.index(base)}" for base, _ in filled)
        offsets = ", ".join(f"i64 {offset}" for _, offset in filled)
        rows.append(
            f"%step {{ ptr @{step.symbol}, i32 {int(step.parallel)}, "
            f"[{MAX_ARGUMENTS} x i32] [{bases}], i32 0, "
            f"[{MAX_ARGUMENTS} x i64] [{offsets}] }}"
        )
    sizes_text = ", ".join(f"i64 {FLOAT_BYTES * size}" for size in sizes)
    count = len(rows)
    lines = [
        # The padding is explicit: a module without a data layout aligns 64-bit numbers to 4 bytes.
        f"%step = type {{ ptr, i32, [{MAX_ARGUMENTS} x i32], i32, [{MAX_ARGUMENTS} x i64] }}",
        *(f"declare void @{symbol}()" for symbol in symbols),
        f"@ofatvm_steps = constant [{count} x %step] [{', '.join(rows)}], align 8",
        f"@ofatvm_step_count = constant i32 {count}",
        f"@ofatvm_tasks = constant i32 {tasks}",
        f"@ofatvm_passes = constant i32 {passes}",
        f"@ofatvm_bytes = constant [{len(sizes)} x i64] [{sizes_text}], align 8",
    ]
    return "\n".join(lines)

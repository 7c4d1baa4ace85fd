"""A tiny function compiled for a target: proof that TVM and LLVM make code for it."""

from __future__ import annotations

from dataclasses import dataclass

from ofatvm.compiler.isa import tvm_target, vector_unit
from ofatvm.compiler.llvm import compile_ir
from ofatvm.compiler.space import VectorUnit
from ofatvm.files import scratch
from ofatvm.target import Target

# Vectors, a multiply-add, a division, a loop and a call: what our kernels are made of.
_SOURCE = """
declare <4 x float> @llvm.fmuladd.v4f32(<4 x float>, <4 x float>, <4 x float>)
declare float @expf(float)

define void @probe(ptr %from, ptr %to, i32 %count) {
enter:
  br label %loop
loop:
  %index = phi i32 [ 0, %enter ], [ %next, %loop ]
  %in = getelementptr <4 x float>, ptr %from, i32 %index
  %out = getelementptr <4 x float>, ptr %to, i32 %index
  %one = load <4 x float>, ptr %in, align 4
  %two = load <4 x float>, ptr %out, align 4
  %sum = call <4 x float> @llvm.fmuladd.v4f32(<4 x float> %one, <4 x float> %two, <4 x float> %one)
  %share = fdiv <4 x float> %sum, %two
  store <4 x float> %share, ptr %out, align 4
  %first = extractelement <4 x float> %share, i32 0
  %power = call float @expf(float %first)
  store float %power, ptr %in, align 4
  %next = add i32 %index, 1
  %more = icmp slt i32 %next, %count
  br i1 %more, label %loop, label %leave
leave:
  ret void
}
"""


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of it; a GPU target is only built, so that it has no vectors and no object."""

    unit: VectorUnit | None = None
    object_bytes: int = 0


def probe(target: Target) -> Probe:
    """Build TVM's target and, for a CPU, an object file; TargetError or CompileError if it fails.

    The CPU of a GPU target is compiled for as well.
    """
    tvm_target(target)
    cpu = target if target.host is None else target.host
    with scratch("probe") as folder:
        path = folder / "probe.o"
        compile_ir(_SOURCE, cpu, path)
        size = path.stat().st_size
    unit = vector_unit(target) if target.kind == "llvm" else None
    return Probe(unit, size)

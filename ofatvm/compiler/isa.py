"""What LLVM knows of a target: whether the CPU exists, its vector unit, and this machine's own CPU."""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from ofatvm.errors import TargetError
from ofatvm.target import Target
from ofatvm.tuning.space import VectorUnit

if TYPE_CHECKING:
    import tvm.target

_ARCHITECTURES = ("x86_64", "i686", "aarch64", "arm", "riscv64", "riscv32")


def tvm_target(target: Target) -> tvm.target.Target:
    """TVM's object for a target that LLVM knows; TargetError otherwise."""
    import tvm

    check_cpu(target)
    try:
        return tvm.target.Target(target.to_dict())
    except (ValueError, tvm.error.TVMError) as error:
        raise TargetError(f"TVM refuses target {target.name}: {_first_line(error)}") from None


def check_cpu(target: Target) -> None:
    """Raise TargetError unless LLVM has code generation for this triple and CPU."""
    if target.kind != "llvm":
        raise TargetError(
            f"target kind {target.kind} is not supported yet", hint="use an llvm target"
        )
    import tvm
    from tvm.target import codegen

    # LLVM ends the process on a triple whose architecture it does not know, so it is never asked.
    architecture = target.mtriple.split("-")[0]
    if target.mtriple and not architecture.startswith(_ARCHITECTURES):
        raise TargetError(
            f"no code generation for triple {target.mtriple!r}",
            hint=f"it should start with one of {', '.join(_ARCHITECTURES)}, as aarch64-linux-gnu",
        )
    base = tvm.target.Target({"kind": "llvm", **_triple(target)})
    try:
        known = list(codegen.llvm_get_cpu_archlist(base))
    except (ValueError, RuntimeError, tvm.error.TVMError) as error:
        raise TargetError(
            f"LLVM knows no triple {target.mtriple!r}: {_first_line(error)}",
            hint="a triple is like aarch64-linux-gnu",
        ) from None
    if target.mcpu and target.mcpu not in known:
        near = difflib.get_close_matches(target.mcpu, known, n=1, cutoff=0.0)
        where = target.mtriple or "this machine's architecture"
        raise TargetError(
            f"LLVM knows no CPU {target.mcpu!r} for {where}",
            hint=f"the nearest name is {near[0]}" if near else "",
        )


def vector_unit(target: Target) -> VectorUnit:
    """The target's float32 vectors: AVX-512 has 32 registers of 16 lanes, AVX 16 of 8, NEON 32 of 4."""
    from tvm.target import codegen

    built = tvm_target(target)

    def has(feature: str) -> bool:
        return bool(codegen.llvm_cpu_has_features(feature, built))

    if has("avx512f") and has("avx512vl"):
        lanes, registers = 16, 32
    elif has("avx"):
        lanes, registers = 8, 16
    elif target.mtriple.startswith("aarch64"):
        lanes, registers = 4, 32
    else:
        lanes, registers = 4, 16
    return VectorUnit(lanes=lanes, registers=registers, threads=target.threads)


def host_target(threads: int | None = None) -> Target:
    """This machine's own CPU, as many cores as this process may use, and the families it belongs to."""
    import tvm
    from tvm.target import codegen

    cpu = str(codegen.llvm_get_system_cpu())
    cores = len(os.sched_getaffinity(0))
    target = Target(name=cpu, mcpu=cpu, num_cores=cores, threads=threads or 0)
    built = tvm.target.Target(target.to_dict())
    levels = {
        "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
        "x86-64-v3": ("avx2", "fma", "bmi2", "f16c"),
    }
    family = tuple(
        name
        for name, needed in levels.items()
        if all(codegen.llvm_cpu_has_features(feature, built) for feature in needed)
    )
    # Without this, LLVM's tuning for some AVX-512 CPUs splits every 512-bit operation in two.
    mattr = ("-prefer-256-bit",) if "x86-64-v4" in family else ()
    return replace(target, family=family, mattr=mattr, notes="detected on this machine")


def _triple(target: Target) -> dict[str, str]:
    return {"mtriple": target.mtriple} if target.mtriple else {}


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else type(error).__name__

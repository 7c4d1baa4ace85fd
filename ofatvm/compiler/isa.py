"""What LLVM knows of a target: whether the CPU exists, its vector unit, and this machine's CPU."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ofatvm.compiler.space import VectorUnit
from ofatvm.errors import TargetError
from ofatvm.target import Target

if TYPE_CHECKING:
    import tvm.target

# First words of triples that LLVM takes; it ends the process on many a word that is not of these.
_ARCHITECTURES = (
    *("x86_64", "i686", "aarch64", "arm64", "arm", "armv7", "armv7a", "armv7l", "armv8l"),
    *("riscv64", "riscv32"),
)
_LEVELS = {
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    "x86-64-v3": ("avx2", "fma", "bmi2", "f16c"),
}


def tvm_target(target: Target) -> tvm.target.Target:
    """TVM's object for a target that LLVM knows; TargetError otherwise."""
    import tvm

    check_cpu(target)
    try:
        return tvm.target.Target(target.to_dict())
    except (ValueError, RuntimeError, TypeError) as error:
        raise TargetError(f"TVM refuses target {target.name}: {_first_line(error)}") from None


def with_triple(target: Target) -> Target:
    """Fill in the triple of a CPU that only another architecture has, such as cortex-a72."""
    import tvm
    from tvm.target import codegen

    if target.kind != "llvm" or target.mtriple or not target.mcpu:
        return target
    for triple in ("", "aarch64-linux-gnu", "riscv64-linux-gnu"):
        base = {"kind": "llvm", **({"mtriple": triple} if triple else {})}
        if target.mcpu in codegen.llvm_get_cpu_archlist(tvm.target.Target(base)):
            return replace(target, mtriple=triple)
    return target


def with_family(target: Target) -> Target:
    """Fill in the families of an x86 CPU: the common levels that it does, widest first.

    TargetError if LLVM does not know the target.
    """
    built = tvm_target(target)
    if target.family:
        return target
    levels = (level for level, needed in _LEVELS.items() if _has(built, needed))
    return replace(target, family=tuple(level for level in levels if level != target.name))


def check_cpu(target: Target) -> None:
    """Raise TargetError unless LLVM has code generation for this triple, CPU and attributes."""
    if target.kind != "llvm":
        raise TargetError(
            f"target kind {target.kind} is not supported yet", hint="use an llvm target"
        )
    import tvm
    from tvm.target import codegen

    if target.mtriple and target.mtriple.split("-")[0] not in _ARCHITECTURES:
        raise TargetError(
            f"no code generation for triple {target.mtriple!r}",
            hint=f"it should start with one of {', '.join(_ARCHITECTURES)}, as aarch64-linux-gnu",
        )
    base = tvm.target.Target({"kind": "llvm", **_triple(target)})
    try:
        known = list(codegen.llvm_get_cpu_archlist(base))
    except (ValueError, RuntimeError) as error:
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
    for attribute in target.mattr:
        # LLVM only warns of what it does not know. Asked alone, what it knows is switched on.
        alone = {"kind": "llvm", **_triple(target), "mattr": [f"+{attribute[1:]}"]}
        if attribute[1:] not in codegen.llvm_get_cpu_features(tvm.target.Target(alone)):
            raise TargetError(
                f"LLVM knows no attribute {attribute!r} for {target.mtriple or 'this machine'}",
                hint="attributes are like +avx2, -prefer-256-bit or +neon",
            )


def vector_unit(target: Target) -> VectorUnit:
    """The target's float32 vectors: AVX-512 has 32 of 16 lanes, AVX 16 of 8, NEON 32 of 4."""
    from tvm.target import codegen

    built = tvm_target(target)
    triple = target.mtriple or str(codegen.llvm_get_system_triple())

    def has(feature: str) -> bool:
        return bool(codegen.llvm_cpu_has_features(feature, built))

    if has("avx512f") and has("avx512vl"):
        lanes, registers = 16, 32
    elif has("avx"):
        lanes, registers = 8, 16
    elif triple.startswith(("aarch64", "arm64")):
        lanes, registers = 4, 32
    else:
        lanes, registers = 4, 16
    return VectorUnit(lanes=lanes, registers=registers, threads=target.threads)


def host_target(threads: int | None = None) -> Target:
    """This machine's CPU, as many cores as this process may use, and the families it belongs to.

    Where the CPU does not do all that its name promises (a virtual machine may hide vector units),
    or LLVM does not know its name, the target is the widest common level that it does.
    """
    import tvm
    from tvm.target import codegen

    cpu = str(codegen.llvm_get_system_cpu())
    cores = len(os.sched_getaffinity(0))
    built = tvm.target.Target({"kind": "llvm", "mcpu": cpu})
    promised = [level for level, needed in _LEVELS.items() if _has(built, needed)]
    flags = _cpu_flags()
    real = [level for level, needed in _LEVELS.items() if flags.issuperset(needed)]
    vectors = {name for name in codegen.llvm_get_cpu_features(built) if name.startswith("avx")}
    if flags and (promised != real or not flags.issuperset(vectors)):
        cpu, promised = next(iter(real), "x86-64"), real
    family = tuple(level for level in promised if level != cpu)
    target = Target(name=cpu, mcpu=cpu, num_cores=cores, threads=threads or 0)
    # Without this, LLVM's tuning for some AVX-512 CPUs splits every 512-bit operation in two.
    mattr = ("-prefer-256-bit",) if "x86-64-v4" in promised else ()
    return replace(target, family=family, mattr=mattr, notes="detected on this machine")


def _has(built: tvm.target.Target, features: Iterable[str]) -> bool:
    from tvm.target import codegen

    return all(codegen.llvm_cpu_has_features(feature, built) for feature in features)


def _cpu_flags() -> frozenset[str]:
    """What an x86 CPU says it can do, in LLVM's spelling; empty for others."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    lines = (line.partition(":") for line in text.splitlines())
    flags = next((value for key, _, value in lines if key.strip() == "flags"), "")
    return frozenset(flags.replace("_", "").split())


def _triple(target: Target) -> dict[str, str]:
    return {"mtriple": target.mtriple} if target.mtriple else {}


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else type(error).__name__

"""Instructions a target's code may use, and those this machine has, by /proc/cpuinfo's names.

Code with an instruction that the CPU lacks dies of SIGILL, so the two are compared before it runs.
"""

from __future__ import annotations

import re
from pathlib import Path

from ofatvm.target import Target

# LLVM's name: the kernel's. Only what LLVM puts into arithmetic code by itself.
_X86 = {
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "popcnt": "popcnt",
    "avx": "avx",
    "f16c": "f16c",
    "fma": "fma",
    "avx2": "avx2",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "lzcnt": "abm",
    "fma4": "fma4",
    "xop": "xop",
    "tbm": "tbm",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
}
_AARCH64 = {
    "neon": "asimd",
    "fullfp16": "asimdhp",
    "dotprod": "asimddp",
    "lse": "atomics",
    "sve": "sve",
    "sve2": "sve2",
}
_ARM = {"neon": "neon", "vfp4": "vfpv4", "hwdiv-arm": "idiva"}
# Kernels long said nothing of extensions with longer names, which run all the same. Without a word
# of V, though, none of them keeps the vector registers of a process.
_RISCV = {name: name for name in ("f", "d", "c", "v")}
_TABLES = {"x86_64": _X86, "aarch64": _AARCH64, "riscv64": _RISCV}
_ISA = re.compile(r"rv\d+([a-z]+)(_\w+)?")


def needed_features(target: Target) -> tuple[str, ...]:
    """What code for the target's CPU may use; empty where no table says how the kernel names it."""
    from ofatvm.compiler.isa import check_cpu, features_of, triple_of

    check_cpu(target)
    cpu = target.host or target
    triple = triple_of(cpu)
    names = _ARM if triple.is_arm else _TABLES.get(triple.architecture, {})
    known = features_of(str(triple), cpu.mcpu, cpu.mattr)
    return tuple(kernel for llvm, kernel in names.items() if llvm in known)


def host_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What every CPU of this machine has, as the kernel says it; empty where it does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return frozenset()
    entries = [line.partition(":") for line in lines]
    sets = [
        frozenset(value.split())
        for key, _, value in entries
        if key.strip() in ("flags", "Features")
    ]
    sets += [_extensions(value.strip()) for key, _, value in entries if key.strip() == "isa"]
    return frozenset.intersection(*sets) if sets else frozenset()


def _extensions(isa: str) -> frozenset[str]:
    """Those of RISC-V in words like rv64imafdcv_zicsr_zba; of longer names only those set apart."""
    found = _ISA.fullmatch(isa)
    if found is None:
        return frozenset()
    letters, others = found.groups()
    return frozenset([*letters.replace("g", "imafd"), *filter(None, (others or "").split("_"))])

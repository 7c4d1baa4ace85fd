"""What LLVM knows of a target: whether it exists, its vector unit, and this machine's CPU."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ofatvm.compiler.space import VectorUnit
from ofatvm.compiler.triple import Triple, parse_triple
from ofatvm.errors import TargetError
from ofatvm.target import Target
from ofatvm.target_text import nearest

if TYPE_CHECKING:
    import tvm.target

_LEVELS = {
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    "x86-64-v3": ("avx2", "fma", "bmi2", "f16c"),
}
# What float32 code for Linux cannot do without. LLVM ends the process where some are missing.
_NEEDED = {
    "x86_64": ("64bit", "64bit-mode", "sse2"),
    "aarch64": ("fp-armv8", "neon"),
    "arm": ("v6", "vfp2sp"),
    "riscv64": ("64bit", "m", "a", "f", "d"),
}
_REFUSED = {"arm": ("mclass", "noarm", "rclass", "soft-float", "thumb-mode"), "riscv64": ("32bit",)}
# LLVM ends the process on many pairs of RISC-V extensions. On these it does not.
_RISCV = frozenset(
    (
        *("a", "c", "d", "f", "m", "v", "zba", "zbb", "zbc", "zbs", "zfh", "zfhmin", "zicond"),
        *("zicbop", "zicsr", "zifencei", "zve32f", "zve64d", "zvfh", "zvfhmin", "zvl128b"),
        *("zvl256b", "zvl512b", "zvl1024b", "unaligned-scalar-mem", "unaligned-vector-mem"),
    )
)
# Every architecture that LLVM is asked about, in the order in which a CPU's name is looked up.
TRIPLES = ("x86_64-linux-gnu", "aarch64-linux-gnu", "riscv64-linux-gnu", "armv7-linux-gnueabihf")
_GPU = (
    *("50", "52", "53", "60", "61", "62", "70", "72", "75", "80", "86", "87", "88", "89", "90"),
    *("90a", "100", "100a", "100f", "101", "101a", "103", "103a", "103f", "110", "110a", "110f"),
    *("120", "120a", "120f", "121", "121a", "121f"),
)
GPU_ARCHITECTURES = tuple(f"sm_{number}" for number in _GPU)


def tvm_target(target: Target) -> tvm.target.Target:
    """TVM's object for a target that LLVM knows; TargetError otherwise."""
    import tvm

    check_cpu(target)
    try:
        return tvm.target.Target(target.to_dict())
    except (ValueError, RuntimeError, TypeError) as error:
        raise TargetError(f"TVM refuses target {target.name}: {_first_line(error)}") from None


def native_triple() -> str:
    """The triple that TVM uses where a target names none."""
    from tvm.target import codegen

    return str(codegen.llvm_get_system_triple())


def triple_of(target: Target) -> Triple:
    """The target's triple, or this machine's."""
    return parse_triple(target.mtriple or native_triple())


def triples_of_cpu(mcpu: str) -> tuple[str, ...]:
    """The architectures that have a CPU of that name and can run Linux, this machine's first."""
    native = str(parse_triple(native_triple()))
    order = sorted(TRIPLES, key=lambda triple: triple != native)
    return tuple(
        triple
        for triple in order
        if mcpu in cpus_of(triple) and not _lacks(triple, features_of(triple, mcpu))
    )


@cache
def cpus_of(triple: str) -> tuple[str, ...]:
    """The CPUs that LLVM knows for a triple of `parse_triple`."""
    import tvm
    from tvm.target import codegen

    base = tvm.target.Target({"kind": "llvm", "mtriple": triple})
    return tuple(str(name) for name in codegen.llvm_get_cpu_archlist(base))


@cache
def features_of(triple: str, mcpu: str, mattr: tuple[str, ...] = ()) -> frozenset[str]:
    """What LLVM switches on for a CPU it knows, and attributes that some CPU has."""
    import tvm
    from tvm.target import codegen

    options = {"mcpu": mcpu, "mattr": list(mattr)}
    given = {key: value for key, value in options.items() if value}
    built = tvm.target.Target({"kind": "llvm", "mtriple": triple, **given})
    return frozenset(str(name) for name in codegen.llvm_get_cpu_features(built))


def check_cpu(target: Target) -> None:
    """Raise TargetError unless there is code generation for the target, and for its host."""
    if target.kind == "cuda":
        _check_gpu(target)
        return
    triple = triple_of(target)
    text = str(triple)
    known = cpus_of(text)
    if target.mcpu and target.mcpu not in known:
        _refuse_cpu(target, known)
    group = _group(triple)
    universe = _attributes(text)
    for attribute in target.mattr:
        name = attribute[1:]
        if name in universe and (group != "riscv64" or name in _RISCV):
            continue
        elsewhere = [other for other in TRIPLES if other != text and name in _attributes(other)]
        if elsewhere:
            raise TargetError(
                f"{attribute!r} is an attribute of {elsewhere[0]}, not of {text}",
                hint="leave it out, or give a CPU of that kind",
            )
        raise TargetError(
            f"LLVM knows no attribute {attribute!r} for {target.mtriple or 'this machine'}",
            hint=nearest(name, universe & _RISCV if group == "riscv64" else universe)
            or "attributes are like +avx2, -prefer-256-bit or +neon",
        )
    has = features_of(text, target.mcpu, target.mattr)
    for attribute in target.mattr:
        if attribute[0] == "+" and attribute[1:] not in has:
            raise TargetError(
                f"attribute {attribute!r} is undone by one that switches off what it needs",
                hint=f"leave out one of {', '.join(target.mattr)}"[:200],
            )
    problem = _lacks(text, has)
    if problem:
        raise TargetError(f"code for {target.mcpu or text} {problem}")
    _check_abi(target, triple, has)


def _check_gpu(target: Target) -> None:
    if not target.arch:
        raise TargetError(
            "a cuda target needs the GPU's architecture",
            hint="-arch=sm_87 is a Jetson Orin, -arch=sm_86 a GeForce RTX 3090",
        )
    if target.arch not in GPU_ARCHITECTURES:
        raise TargetError(f"no GPU architecture {target.arch!r}", hint=_near_gpu(target.arch))
    if target.host is None:
        raise TargetError(f"cuda target {target.name} names no host")
    check_cpu(target.host)


def _near_gpu(arch: str) -> str:
    """A GPU's name says how old it is: before the first and after the last there are none."""
    numbers = {int(re.sub(r"\D", "", name)): name for name in GPU_ARCHITECTURES}
    given = re.fullmatch(r"sm_(\d{1,4})[af]?", arch)
    if given and int(given[1]) < min(numbers):
        return f"the oldest is {numbers[min(numbers)]}"
    if given and int(given[1]) > max(numbers):
        return f"the newest is {numbers[max(numbers)]}"
    return nearest(arch, GPU_ARCHITECTURES) or "architectures are like sm_87"


def _check_abi(target: Target, triple: Triple, has: frozenset[str]) -> None:
    """Refuse calling conventions that the architecture or the triple does not have."""
    if target.mfloat_abi:
        if not triple.is_arm:
            raise TargetError(f"mfloat-abi is an option of 32-bit ARM, not of {triple}")
        if (target.mfloat_abi == "hard") != triple.environment.endswith("hf"):
            raise TargetError(
                f"mfloat-abi {target.mfloat_abi} contradicts triple {triple}",
                hint="gnueabihf is hard, gnueabi is soft",
            )
    if target.mabi:
        if triple.architecture != "riscv64":
            raise TargetError(f"mabi is an option of RISC-V, not of {triple}")
        if target.mabi != "lp64d":
            raise TargetError(
                f"mabi {target.mabi} is not that of riscv64 Linux", hint="it is lp64d"
            )


def vector_unit(target: Target) -> VectorUnit:
    """The target's float32 vectors: AVX-512 has 32 of 16 lanes, AVX 16 of 8, NEON 32 of 4.

    32-bit NEON and SSE have 16 of 4 lanes. So has, for our schedules, what has no vectors: LLVM
    makes four scalar operations of each, and 32 registers of RISC-V hold eight such vectors.
    """
    if target.kind != "llvm":
        raise TargetError(
            f"{target.name} is a GPU, which has no vector unit",
            hint="give the CPU as an llvm target",
        )
    triple = triple_of(target)
    check_cpu(target)
    has = features_of(str(triple), target.mcpu, target.mattr)
    if {"avx512f", "avx512vl"} <= has:
        lanes, registers = 16, 32
    elif "avx" in has:
        lanes, registers = 8, 16
    elif triple.architecture == "aarch64" or "v" in has:
        lanes, registers = 4, 32
    elif triple.architecture == "x86_64" or "neon" in has:
        lanes, registers = 4, 16
    else:
        lanes, registers = 4, 8
    return VectorUnit(lanes=lanes, registers=registers, threads=target.threads)


def written(triple: Triple) -> str:
    """How a target holds a triple: x86-64 Linux is left out on machines that are of it."""
    text = str(triple)
    is_native = text == TRIPLES[0] == str(parse_triple(native_triple()))
    return "" if is_native else text


def with_family(target: Target) -> Target:
    """Fill in whose tuning records may serve: the CPU's own, then x86 levels, widest first.

    TargetError if LLVM does not know the target.
    """
    built = tvm_target(target)
    if target.family or target.kind != "llvm":
        return target
    levels = (level for level, needed in _LEVELS.items() if _has(built, needed))
    own = [target.mcpu] if str(triple_of(target)) in triples_of_cpu(target.mcpu)[:1] else []
    names = dict.fromkeys((*own, *levels))
    return replace(target, family=tuple(name for name in names if name != target.name))


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
    triple = written(parse_triple(native_triple()))
    notes = "detected on this machine"
    return replace(target, mtriple=triple, family=family, mattr=mattr, notes=notes)


@cache
def _attributes(triple: str) -> frozenset[str]:
    """What some CPU of the architecture has. Others exist; LLVM does not list them."""
    return frozenset().union(*(features_of(triple, cpu) for cpu in cpus_of(triple)))


def _group(triple: Triple) -> str:
    return "arm" if triple.is_arm else triple.architecture


def _lacks(triple: str, has: frozenset[str]) -> str:
    """Why these features do not make a CPU that our code runs on; empty if they do."""
    group = _group(parse_triple(triple))
    missing = [name for name in _NEEDED[group] if name not in has]
    if missing:
        return f"needs {', '.join(missing)}, which it lacks"
    refused = [name for name in _REFUSED.get(group, ()) if name in has]
    if refused:
        return f"cannot be made with {', '.join(refused)}"
    if any(name.startswith("zvl") for name in has) and "zve32x" not in has:
        return "needs v, which it lacks, to have vectors of a given length (zvl)"
    return ""


def _refuse_cpu(target: Target, known: Iterable[str]) -> NoReturn:
    others = [other for other in TRIPLES if target.mcpu in cpus_of(other)]
    if target.mtriple or not others:
        where = f" for {target.mtriple}" if target.mtriple else ""
        everywhere = known if target.mtriple else [c for triple in TRIPLES for c in cpus_of(triple)]
        hint = f"it is a CPU of {others[0]}" if others else _near_cpu(target.mcpu, everywhere)
        raise TargetError(f"LLVM knows no CPU {target.mcpu!r}{where}", hint=hint)
    problem = _lacks(others[0], features_of(others[0], target.mcpu))
    if problem:
        raise TargetError(f"code for {target.mcpu} {problem}")
    raise TargetError(
        f"{target.mcpu} is no CPU of {parse_triple(native_triple())}",
        hint=f"it needs -mtriple={others[0]}",
    )


def _near_cpu(mcpu: str, known: Iterable[str]) -> str:
    names = list(dict.fromkeys(known))
    if re.fullmatch(r"sm_\d+[af]?", mcpu):
        return f"a GPU is cuda -arch={mcpu}"
    if mcpu == "native":
        return "this machine's CPU is --target host"
    mcpu = mcpu.lower()
    within = [name for name in names if mcpu in name]
    near = difflib.get_close_matches(mcpu, within or names, 1, 0.0 if within else 0.5)
    if near:
        return f"the nearest name is {near[0]}"
    return "`ofatvm targets list` shows boards and their CPUs"


def _has(built: tvm.target.Target, features: Iterable[str]) -> bool:
    from tvm.target import codegen

    return all(codegen.llvm_cpu_has_features(feature, built) for feature in features)


def _cpu_flags() -> frozenset[str]:
    """What an x86 CPU says it can do, in LLVM's spelling; empty for others."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    lines = (line.partition(":") for line in text.splitlines())
    flags = next((value for key, _, value in lines if key.strip() == "flags"), "")
    return frozenset(flags.replace("_", "").split())


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else type(error).__name__

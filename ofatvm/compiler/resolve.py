"""Targets as users give them, completed: what was left out is filled in, and said.

All ways of writing one target end in one form, so that they share fingerprint and records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ofatvm.compiler.isa import (
    TRIPLES,
    check_cpu,
    cpus_of,
    features_of,
    host_target,
    native_triple,
    triple_of,
    triples_of_cpu,
    with_family,
    written,
)
from ofatvm.compiler.triple import Triple, parse_triple
from ofatvm.errors import TargetError
from ofatvm.target import (
    MAX_CORES,
    Target,
    load_target,
    read_target,
    shipped,
    target_from_dict,
)
from ofatvm.target_text import nearest

# Host detection says this of every CPU of that level, whether or not LLVM would split its vectors.
ALWAYS_SAID = "-prefer-256-bit"
# GPUs that are soldered to a CPU: LLVM's name for it, and its cores on the largest module.
JETSON_HOSTS = {
    "sm_53": ("cortex-a57", 4),
    "sm_62": ("cortex-a57", 4),
    "sm_72": ("carmel", 8),
    "sm_87": ("cortex-a78", 12),
    "sm_101": ("neoverse-v3ae", 14),
    "sm_110": ("neoverse-v3ae", 14),
}
GPU_DEFAULTS = {
    "max_threads_per_block": 1024,
    "max_shared_memory_per_block": 49152,
    "thread_warp_size": 32,
    "registers_per_block": 65536,
}
FEWER_REGISTERS = ("sm_53", "sm_62")
# Debian and Fedora for riscv64 assume these; LLVM's nameless CPU has none.
RISCV_LINUX = ("+a", "+c", "+d", "+f", "+m")


def resolve(text: str) -> Target:
    """The target of any text that `ofatvm --target` takes; `filled` says what was left out."""
    if text.strip() == "host":
        return with_family(host_target())
    name, options = read_target(text, tag_options)
    return complete(name, options)


def tag_options(tag: str) -> Mapping[str, Any]:
    """TVM's options of a tag such as raspberry-pi/4b-aarch64."""
    import tvm

    known = [str(name) for name in tvm.target.list_tags()]
    if tag not in known:
        raise TargetError(
            f"no file and no TVM target tag {tag[:60]!r}",
            hint=nearest(tag, known) or "tags are like raspberry-pi/4b-aarch64",
        )
    options: dict[str, Any] = json.loads(str(tvm.target.Target(tag)))
    if str(options.get("mtriple", "")).startswith("riscv64"):
        options.pop("mfloat-abi", None)  # TVM's tags say it of RISC-V, where LLVM has none
    return options


def complete(name: str, options: Mapping[str, Any]) -> Target:
    """A target with all that follows from what is given; TargetError if it does not exist.

    `name` is empty where the user gave none.
    """
    if "threads" in options and ("num-cores" not in options or options.get("kind") == "cuda"):
        # Checked for what it is here, and against the cores once those are known.
        target_from_dict({"threads": options["threads"], "num-cores": MAX_CORES}, name="any")
        given = target_from_dict({**options, "threads": 0}, name=name)
    else:
        given = target_from_dict(options, name=name)
    if given.kind == "cuda":
        return _complete_gpu(given, options)
    target, said, alike = _complete_cpu(given, options, named=bool(name))
    if target.machine is None and alike and alike[0].machine is not None:
        target = replace(target, machine=alike[0].machine)
        said.append(f"caches and clock for simulation, as on {_names(alike)}")
    return replace(with_family(target), filled=tuple(said))


def _complete_cpu(
    given: Target, options: Mapping[str, Any], *, named: bool
) -> tuple[Target, list[str], list[Target]]:
    """An llvm target with all that changes code, what was said, and shipped ones of its CPU."""
    target, said = _with_architecture(given, named=named)
    target = _with_attributes(target, said)
    check_cpu(target)
    alike = _shipped_with(target)
    if "num-cores" not in options:
        target = _with_cores(target, alike, said).with_threads(options.get("threads", 0))
    return target, said, alike


def _with_architecture(target: Target, *, named: bool) -> tuple[Target, list[str]]:
    """The target with its triple and calling convention in their one spelling."""
    said: list[str] = []
    homes = triples_of_cpu(target.mcpu) if target.mcpu else ()
    if target.mtriple:
        triple = _one_arm(parse_triple(target.mtriple), target)
    elif homes:
        triple = _one_arm(parse_triple(homes[0]), target)
    else:
        triple = parse_triple(native_triple())
    mtriple = written(triple)
    if not target.mtriple and (mtriple or not target.mcpu):
        said.append(f"mtriple {triple}, as {target.mcpu or 'this machine'} is such a CPU")
    name = target.name
    if not named and target.mcpu and homes and target.mtriple:
        # The folder of records of that name is for the CPU's own architecture.
        usual = _one_arm(parse_triple(homes[0]), target).architecture
        if triple.architecture != usual:
            name = f"{target.mcpu}-{triple.architecture}"
    elif not named and name == target.mtriple:
        name = mtriple or target.kind
    changes: dict[str, Any] = {"mtriple": mtriple, "name": name}
    if triple.is_arm and not target.mfloat_abi:
        changes["mfloat_abi"] = "hard" if triple.environment.endswith("hf") else "soft"
        said.append(f"mfloat-abi {changes['mfloat_abi']}, as {triple.environment} means")
    if triple.architecture == "riscv64" and not target.mabi:
        changes["mabi"] = "lp64d"
        said.append("mabi lp64d, as on all riscv64 Linux")
    return replace(target, **changes), said


def _one_arm(triple: Triple, target: Target) -> Triple:
    """32-bit ARM by its CPU, where one is named: armv7 for all that can do it, else arm."""
    if not triple.is_arm:
        return triple
    environment = triple.environment
    if not target.mtriple and target.mfloat_abi == "soft":
        environment = "gnueabi"
    architecture = triple.architecture
    if target.mcpu:
        seven = "armv7-linux-gnueabihf"
        is_seven = target.mcpu in cpus_of(seven) and "v7" in features_of(seven, target.mcpu)
        architecture = "armv7" if is_seven else "arm"
    elif architecture == "arm":
        architecture = "armv7"
    return Triple(architecture, environment)


def _with_attributes(target: Target, said: list[str]) -> Target:
    """Leave out attributes that change nothing, and add what Linux on RISC-V assumes."""
    triple = str(triple_of(target))
    mattr = target.mattr
    if triple.startswith("riscv64") and not target.mcpu:
        missing = [name for name in RISCV_LINUX if f"-{name[1:]}" not in mattr]
        if not set(missing) <= set(mattr):
            said.append("mattr +a,+c,+d,+f,+m, as riscv64 Linux assumes")
        mattr = (*mattr, *missing)
    else:
        check_cpu(target)
        has = features_of(triple, target.mcpu)
        mattr = tuple(
            word for word in mattr if word == ALWAYS_SAID or (word[1:] in has) != (word[0] == "+")
        )
    return replace(target, mattr=mattr)


def _with_cores(target: Target, alike: list[Target], said: list[str]) -> Target:
    """The cores of shipped targets with that CPU, if they agree; else one."""
    counts = {other.num_cores for other in alike}
    if len(counts) == 1:
        said.append(f"num-cores {alike[0].num_cores}, as on {_names(alike)}")
        return replace(target, num_cores=alike[0].num_cores, threads=0)
    reason = "" if not target.mcpu else " and no shipped target has that CPU"
    if alike:
        reason = " and shipped targets with that CPU differ"
    said.append(f"num-cores 1, as none is given{reason}")
    return target


def _names(alike: list[Target]) -> str:
    others = ", ".join(other.name for other in alike[1:])
    return f"{alike[0].name} (also of that CPU: {others})" if others else alike[0].name


def _shipped_with(target: Target) -> list[Target]:
    """Shipped targets with the same CPU, other than the target itself."""
    if not target.mcpu:
        return []
    triple = triple_of(target)
    known = [load_target(path) for path in shipped().values()]
    return [
        other
        for other in known
        if other.mcpu == target.mcpu and parse_triple(other.mtriple or TRIPLES[0]) == triple
    ]


def _complete_gpu(given: Target, options: Mapping[str, Any]) -> Target:
    """A cuda target with host and limits."""
    said: list[str] = []
    target = replace(given, limits=())
    named: Mapping[str, Any] = options.get("host") or {}
    mcpu, cores = JETSON_HOSTS.get(given.arch.rstrip("af"), ("", 0))
    usual = {"mcpu": mcpu, "num-cores": cores} if mcpu else {}
    if "mtriple" in named or named.get("mcpu", mcpu) != mcpu:
        usual = {}
    missing = {key: value for key, value in usual.items() if key not in named}
    if missing:
        listed = ", ".join(f"{key} {value}" for key, value in missing.items())
        said.append(f"host {listed}, as on Jetsons with {given.arch}")
    if named or usual:
        both = {**usual, **named}
        host, filled, _ = _complete_cpu(target_from_dict(both, name=""), both, named=False)
        said += [f"host {sentence}" for sentence in filled]
    else:
        host = host_target()
        said.append(f"host {host.mcpu} with {host.num_cores} cores, as on this machine")
    target = replace(target, host=host, num_cores=host.num_cores)
    target = target.with_threads(options.get("threads", 0))
    check_cpu(target)
    limits = dict(given.limits)
    if limits.get("max_num_threads") == GPU_DEFAULTS["max_threads_per_block"]:
        del limits["max_num_threads"]  # TVM's default
    defaults = dict(GPU_DEFAULTS)
    if given.arch in FEWER_REGISTERS:
        defaults["registers_per_block"] //= 2
    unsaid = {key: number for key, number in defaults.items() if key not in limits}
    if unsaid:
        listed = ", ".join(f"{key} {number}" for key, number in unsaid.items())
        said.append(f"{listed}, as CUDA has for {given.arch}")
    family = given.family or ((given.arch,) if given.name != given.arch else ())
    everything = tuple(sorted((limits | unsaid).items()))
    return replace(target, limits=everything, family=family, filled=tuple(said))

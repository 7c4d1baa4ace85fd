"""`ofatvm doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.render import Column, Result, table
from ofatvm.elf import host_machine, machine_of
from ofatvm.errors import MissingInputError
from ofatvm.paths import checkout, data_dir

Status = Literal["ok", "warning", "missing"]
# What code is often made for on another machine.
FOREIGN = ("aarch64-linux-gnu", "arm-linux-gnueabihf", "riscv64-linux-gnu")
COMPILERS = ("g++", "clang++", "c++")
GIB = 2**30
COLUMNS = (
    Column("name", "check", left=True),
    Column("status", "status", left=True),
    Column("found", "found", left=True),
    Column("needed", "needed", left=True),
    Column("hint", "what to do", left=True),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at; `missing` means that ofatvm cannot work without it."""

    name: str
    status: Status
    found: str
    needed: str | None = None
    hint: str | None = None


@click.command("doctor", help="Check what this machine has and lacks; exit 5 if something needed.")
@common_options
def command(run: Run) -> Result:
    """Run every check."""
    checks = list(all_checks(run.workspace))
    lacking = [check.name for check in checks if check.status == "missing"]
    error = None
    if lacking:
        hints = dict.fromkeys(c.hint for c in checks if c.status == "missing" and c.hint)
        error = MissingInputError(
            f"needed and not there: {', '.join(lacking)}", hint="; ".join(hints)
        )
    rows = [asdict(check) for check in checks]
    return Result({"checks": rows}, lambda width: table(rows, COLUMNS, width), error=error)


def all_checks(workspace: Path) -> Iterator[Check]:
    """Every check, cheap ones only: no library is imported."""
    yield Check("python", "ok", platform.python_version(), ">=3.11")
    yield from package_checks(locked_versions())
    yield linker_check("ld", "binutils")
    yield linker_check("cc", "gcc")
    yield zig_check()
    yield from machine_checks(workspace)
    yield records_check()
    yield relay_check()
    yield compiler_check()
    yield mca_check()
    yield tool_check("nvcc", "to compile GPU kernels here", "install CUDA 11.4 or newer")
    for triple in FOREIGN:
        yield from foreign_checks(triple)


def locked_versions() -> dict[str, str]:
    """Package -> version in the checkout's lock file; empty outside a checkout."""
    root = checkout()
    lock = root / "requirements.lock" if root else None
    if lock is None or not lock.is_file():
        return {}
    lines = [line.strip() for line in lock.read_text(encoding="utf-8").splitlines()]
    pins = [line.split("==", 1) for line in lines if "==" in line and not line.startswith("#")]
    return {pin[0]: pin[1] for pin in pins}


def package_checks(locked: dict[str, str]) -> Iterator[Check]:
    """The package's requirements against what is installed, and against the lock file."""
    hint = "make setup, or pip install --no-deps -r requirements.lock"
    try:
        from packaging.requirements import Requirement
        from packaging.version import InvalidVersion, Version
    except ImportError:
        yield Check("packaging", "missing", "not installed", "to check the others", hint)
        return
    try:
        wanted = [Requirement(text) for text in metadata.requires("ofatvm") or []]
    except metadata.PackageNotFoundError:
        yield Check("ofatvm", "missing", "not installed", "an installed package", "make setup")
        return
    for requirement in wanted:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, needed = requirement.name, str(requirement.specifier)
        try:
            found = Version(metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(name, "missing", "not installed", needed, hint)
            continue
        except InvalidVersion:
            yield Check(name, "missing", "damaged metadata", needed, hint)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield Check(name, "missing", str(found), needed, hint)
        elif name in locked and found.public != locked[name]:
            yield Check(name, "warning", str(found), f"=={locked[name]} (lock)", hint)
        else:
            yield Check(name, "ok", str(found), needed)


def compiler_check() -> Check:
    """A C++ compiler, which only the C++ runner of a bundle needs."""
    needed = "optional: a bundle's main.cc"
    for candidate in (os.environ.get("CXX", ""), *COMPILERS):
        found = shutil.which(candidate) if candidate else None
        if found:
            return Check("C++ compiler", "ok", found, needed)
    return Check("C++ compiler", "ok", "none", needed, "apt install g++")


def linker_check(name: str, package: str) -> Check:
    """A program that links compiled kernels, and the package it comes with; ziglang does, too."""
    from ofatvm.compiler.link import zig_path

    needed = "to link compiled kernels"
    found = shutil.which(name)
    if found:
        return Check(name, "ok", found, needed)
    if zig_path():
        return Check(name, "ok", "none: zig is used", needed)
    return Check(name, "missing", "none", needed, f"apt install {package}")


def zig_check() -> Check:
    """The linker of the ziglang package, which makes libraries for other machines."""
    from ofatvm.compiler.link import zig_path

    needed, found = "optional: to link for other machines", zig_path()
    if found:
        return Check("zig", "ok", str(found), needed)
    return Check("zig", "ok", "none", needed, "pip install ziglang")


def foreign_checks(triple: str) -> Iterator[Check]:
    """What links, compiles and runs code for another machine here; none for this machine's own."""
    from ofatvm.compiler.link import gnu_prefix
    from ofatvm.device.qemu import emulator_name, find_sysroot, packages
    from ofatvm.device.runtime import NAMES, pinned, runtime_folder

    machine = machine_of(triple)
    if machine == host_machine():
        return
    prefix = gnu_prefix(triple)
    yield tool_check(f"{prefix}-ld", "instead of zig", f"apt install binutils-{prefix}")
    yield tool_check(f"{prefix}-g++", "main.cc, faster than zig", f"apt install g++-{prefix}")
    emulator, libraries = packages(triple)
    yield tool_check(emulator_name(machine), f"to run {machine} code", f"apt install {emulator}")
    needed, root = f"optional: to run {machine} code", find_sysroot(triple)
    name = f"{machine} libraries"
    hint = None if root else f"apt install {libraries}"
    yield Check(name, "ok", str(root or "none"), needed, hint)
    folder, there, hint = runtime_folder(machine), "none; verify fetches it", None
    if all((folder / name).is_file() for name in NAMES):
        there = str(folder)
    elif not pinned(machine):
        there, hint = "none; there are no wheels", f"python scripts/build_runtime.py {triple}"
    yield Check(f"{machine} TVM runtime", "ok", there, needed, hint)


def machine_checks(workspace: Path) -> Iterator[Check]:
    """Cores, vector instructions, memory and disk."""
    cores = len(os.sched_getaffinity(0))
    yield Check("CPU cores", "ok", str(cores))
    yield features_check(Path("/proc/cpuinfo"))
    memory = Path("/proc/meminfo").read_text(encoding="utf-8").split("MemAvailable:")[1].split()[0]
    yield amount_check("free memory", int(memory) * 1024, 2 * GIB, "close other programs")
    folder = workspace.absolute()
    while not folder.is_dir():
        folder = folder.parent
    disk = shutil.disk_usage(folder).free
    yield amount_check("free disk", disk, GIB, f"free some on the disk of {folder}")
    if not os.access(folder, os.W_OK):
        yield Check("workspace", "missing", f"{folder} cannot be written", None, "--workspace DIR")


def features_check(cpuinfo: Path) -> Check:
    """The CPU's vector instructions, as far as they matter to the shipped records."""
    machine = platform.machine()
    if machine != "x86_64" or not cpuinfo.is_file():
        return Check("CPU features", "ok", machine)
    text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    found = [name for name in ("avx2", "fma", "avx512f") if name in flags]
    if {"avx2", "fma"} <= set(found):
        return Check("CPU features", "ok", " ".join([machine, *found]))
    hint = "the shipped tuning records do not apply; run ofatvm tune --target host"
    return Check("CPU features", "warning", " ".join([machine, *found]), "avx2 fma", hint)


def amount_check(name: str, size: int, least: int, hint: str) -> Check:
    """An amount of bytes against the least that is comfortable."""
    enough = size >= least
    found, needed = f"{size / GIB:.1f} GiB", f">= {least / GIB:.0f} GiB"
    return Check(name, "ok" if enough else "warning", found, needed, None if enough else hint)


def records_check() -> Check:
    """The tuning records that ship with ofatvm."""
    folder = data_dir("tuning_logs")
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    targets = [name for name in names if (folder / name).is_dir()]
    if targets:
        return Check("tuning records", "ok", ", ".join(targets))
    return Check("tuning records", "warning", "none", None, "ofatvm tune --target host")


def relay_check() -> Check:
    """The environment of the Relay road, and the versions of TVM 0.19 in it."""
    from ofatvm.compiler.relay_env import relay_python, relay_versions

    needed = "optional: for --ir relay"
    try:
        python, versions = relay_python(), relay_versions()
    except MissingInputError as error:
        return Check("TVM 0.19 (Relay)", "ok", f"none: {error.message}", needed, error.hint)
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Check("TVM 0.19 (Relay)", "ok", f"{found} in {python.parents[1]}", needed)


def mca_check() -> Check:
    """llvm-mca by its own name or with its version, the newest that is here."""
    from ofatvm.device.simulator.tools import MCA_NAMES

    name = next((name for name in MCA_NAMES if shutil.which(name)), "llvm-mca")
    return replace(
        tool_check(name, "the simulated device", "apt-get install llvm"), name="llvm-mca"
    )


def tool_check(name: str, purpose: str, hint: str) -> Check:
    """An optional program: its absence is worth a word, no more."""
    found = shutil.which(name) or shutil.which(f"{name}-static")
    optional: dict[str, Any] = {"needed": f"optional: {purpose}"}
    if found:
        return Check(name, "ok", found, **optional)
    return Check(name, "ok", "none", hint=hint, **optional)

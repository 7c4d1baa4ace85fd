"""Linking compiled objects into shared libraries, for this machine and for others.

For this machine `ld` links, and without it the linker of the Python package ziglang. For another
architecture it is ziglang's, and without it that architecture's `ld` (aarch64-linux-gnu-ld): the
pinned one first, so that a bundle does not depend on what else a machine has.

Modules call nothing but the C library and the TVM runtime, which is loaded already, so the bare
linker does: it takes a tenth of the time of a compiler driver, and what it makes needs no library
and no version of glibc by name.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ofatvm.elf import (
    check_needs,
    foreign_symbols,
    host_machine,
    machine_of,
    newest_glibc,
    read_elf,
)
from ofatvm.errors import BundleError, CompileError, MissingInputError
from ofatvm.paths import cache_dir
from ofatvm.target import Target

_ZIG_ARCHITECTURES = {"i686": "x86"}
_FLAGS = ("-shared", "-Bsymbolic", "-z", "noexecstack")
_COMPILER_FLAGS = ("-shared", "-fPIC", "-Wl,-Bsymbolic,-z,noexecstack")


@dataclass(frozen=True, slots=True)
class Tool:
    """A linker or a compiler: the words of its command, and what it wants in the environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def link(
    target: Target | None,
    output: str,
    objects: Sequence[str],
    options: Any = None,
    extra: Sequence[str] = (),
    **_: Any,
) -> None:
    """Link objects for a target, or for this machine, into a shared library.

    With its first argument bound, TVM's export_library calls it, too.
    """
    triple = linked_triple(target)
    if any(name.endswith(".c") for name in objects):
        # A module without machine code of its own comes as a C file, which needs a compiler first.
        tool, flags = find_compiler(triple, "c"), [*_COMPILER_FLAGS]
    else:
        tool, flags = find_linker(triple), [*_FLAGS]
    _require_linked(run_tool(tool, [*flags, "-o", output, *objects, *extra]), output)


def link_with(tool: Tool, output: str, objects: Sequence[str], options: Any = None) -> None:
    """Link objects with a linker that was found already: where this runs, there may be none."""
    _require_linked(run_tool(tool, [*_FLAGS, "-o", output, *objects]), output)


def _require_linked(done: subprocess.CompletedProcess[str], output: str) -> None:
    """CompileError with the linker's own words if it failed, or with the signal that ended it."""
    if done.returncode == 0:
        return
    said = done.stderr.strip()[-300:]
    if os.strerror(errno.ENOSPC) in said:
        raise CompileError(
            f"no space left on the disk of {Path(output).parent}", hint="free some and try again"
        )
    if not said:
        ended = signal.strsignal(-done.returncode) if done.returncode < 0 else None
        said = ended or f"exit code {done.returncode}"
    raise CompileError(f"linking {output} failed: {said}")


def link_host(
    output: str,
    objects: Sequence[str],
    options: Any = None,
    extra: Sequence[str] = (),
    **_: Any,
) -> None:
    """Link objects into a shared library for this machine."""
    link(None, output, objects, extra=extra)


def linked_triple(target: Target | None) -> str:
    """The triple of a target's CPU; empty for this machine's architecture."""
    if target is None:
        return ""
    triple = (target.host or target).mtriple
    return "" if not triple or machine_of(triple) == host_machine() else triple


def find_linker(triple: str) -> Tool:
    """The linker for a triple, or with an empty one for this machine.

    Raises MissingInputError if there is none.
    """
    zig, own = zig_path(), shutil.which("ld" if not triple else f"{gnu_prefix(triple)}-ld")
    if own and (not triple or zig is None):
        return Tool((own,))
    if zig is not None:
        return Tool((str(zig), "ld.lld"))
    package = "binutils" if not triple else f"binutils-{gnu_prefix(triple)}"
    wanted = f"no linker for {machine_of(triple)}" if triple else "no ld found"
    raise MissingInputError(wanted, hint=f"pip install ziglang, or apt-get install {package}")


def find_compiler(triple: str, language: str) -> Tool:
    """A compiler of C ("c") or C++ ("c++") for a triple, or with an empty one for this machine.

    The system's comes first: ziglang's builds a C++ library when it is first used for a target,
    which takes minutes.
    """
    words = {"c": ("cc", "gcc"), "c++": ("c++", "g++")}[language]
    name = words[1] if triple else words[0]
    own = shutil.which(f"{gnu_prefix(triple)}-{name}" if triple else name)
    if own:
        return Tool((own,))
    zig = zig_path()
    if zig is not None:
        command = (str(zig), "c++" if language == "c++" else "cc")
        where = ("-target", zig_target(triple)) if triple else ()
        cache = os.environ.get("ZIG_GLOBAL_CACHE_DIR") or str(cache_dir() / "zig")
        return Tool((*command, *where), {"ZIG_GLOBAL_CACHE_DIR": cache})
    package = words[1] if not triple else f"{words[1]}-{gnu_prefix(triple)}"
    raise MissingInputError(
        f"no C{'++' if language == 'c++' else ''} compiler"
        f"{f' for {machine_of(triple)}' if triple else ''}",
        hint=f"pip install ziglang, or apt-get install {package}",
    )


def run_tool(
    tool: Tool, words: Sequence[str], *, cwd: Path | None = None, timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end and keep what it says."""
    return subprocess.run(
        [*tool.command, *words],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd=cwd,
        env=os.environ | dict(tool.environment),
        stdin=subprocess.DEVNULL,
        timeout=timeout_s,
    )


def zig_path() -> Path | None:
    """The program of the installed ziglang package, which starts faster than `python -m`."""
    found = importlib.util.find_spec("ziglang")
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder) / "zig"
        if os.access(path, os.X_OK):
            return path
    return None


def gnu_prefix(triple: str) -> str:
    """What the names of a triple's GNU tools, and of their packages and folders, begin with."""
    machine = machine_of(triple)
    return f"{machine}-linux-{_environment(triple, machine)}"


def zig_target(triple: str) -> str:
    """A triple in ziglang's words, with the oldest glibc that it is linked for."""
    machine = machine_of(triple)
    environment = _environment(triple, machine)
    version = f".{newest_glibc(machine)}" if environment.startswith("gnu") else ""
    return f"{_ZIG_ARCHITECTURES.get(machine, machine)}-linux-{environment}{version}"


def _environment(triple: str, machine: str) -> str:
    last = triple.split("-")[-1]
    if last.startswith(("gnu", "musl")):
        return last
    return "gnueabihf" if machine == "arm" else "gnu"


def check_linked(path: Path, target: Target) -> None:
    """Raise CompileError if a library is not what a board with the TVM runtime can load."""
    triple = (target.host or target).mtriple
    machine = machine_of(triple) if triple else host_machine()
    try:
        facts = read_elf(path)
    except BundleError as error:
        raise CompileError(f"the linked network cannot be read: {error.message}") from None
    wrong = check_needs(facts)
    if facts.machine != machine:
        wrong = f"it is for {facts.machine}"
    elif strange := foreign_symbols(facts):
        wrong = f"nothing on the board has {', '.join(strange)[:200]}"
    if wrong:
        raise CompileError(
            f"the network linked for {target.name} ({machine}) cannot run there: {wrong}",
            hint="report it with the target and the architecture",
        )

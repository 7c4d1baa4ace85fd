"""CUDA source to machine code by the installed nvcc: all kernels of a network in one call."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ofatvm.errors import CompileError, TargetError
from ofatvm.files import scratch

Format = Literal["cubin", "ptx", "source"]

TIMEOUT_S = 900.0
# PTX of CUDA 10.1: every driver of the last years reads it, and the warp shuffles need 6.2.
OLD_ISA = "6.4"
_ARCH = re.compile(r"sm_(\d{2,3})([af]?)")
# The end of a kernel's name in the source, after that of its workload.
_SUFFIX = "_kernel"


@dataclass(frozen=True, slots=True)
class MachineCode:
    """What the kernels became, and what is to be said of it: notes are sentences without a dot."""

    code: bytes
    format: Format
    notes: tuple[str, ...] = ()


def compile_kernels(source: str, arch: str) -> MachineCode:
    """Compile the CUDA source of kernels for `arch`, such as sm_87.

    A cubin where nvcc knows the arch, else PTX, which the board's driver translates: of the highest
    level that nvcc knows where the arch is newer, of an old ISA that ptxas has checked it to keep
    to where the arch is older. The source itself where there is no nvcc. CompileError names the
    kernel that does not compile.
    """
    number = arch_number(arch)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        note = (
            "kernels were not compiled: no nvcc was found; they are CUDA source, which the board "
            "compiles on load with Python, apache-tvm and nvcc or cuda-bindings"
        )
        return MachineCode(source.encode(), "source", (note,))
    version, known = _nvcc(nvcc)
    with scratch("nvcc") as folder:
        text, cubin, ptx = (folder / f"kernels.{end}" for end in ("cu", "cubin", "ptx"))
        text.write_text(source, encoding="utf-8")
        # -w: TVM leaves many variables unused, and each would be three lines.
        nvcc_call = [nvcc, "-O3", "-w", str(text), "-o"]
        if number in known:
            _run([*nvcc_call, str(cubin), "-cubin", f"-arch={arch}"], source, arch)
            return MachineCode(cubin.read_bytes(), "cubin")
        level = max((each for each in known if each < number), default=min(known))
        _run([*nvcc_call, str(ptx), "-ptx", f"-arch=compute_{level}"], source, arch)
        kind = f"PTX for compute_{level}"
        if level > number:
            kind = f"PTX {OLD_ISA} for {arch}"
            words = ptx.read_text(encoding="utf-8")
            words = re.sub(r"(?m)^\.version .*$", f".version {OLD_ISA}", words, count=1)
            words = re.sub(r"(?m)^\.target .*$", f".target {arch}", words, count=1)
            ptx.write_text(words, encoding="utf-8")
        ptxas = shutil.which("ptxas") or str(Path(nvcc).with_name("ptxas"))
        _run([ptxas, f"-arch=sm_{level}", str(ptx), "-o", str(cubin)], source, arch)
        note = (
            f"kernels were not compiled: nvcc {version} knows no {arch}; they are {kind}, checked "
            f"by ptxas for sm_{level}, which the board's driver translates on load"
        )
        return MachineCode(ptx.read_bytes(), "ptx", (note,))


def arch_number(arch: str) -> int:
    """87 of sm_87; TargetError where an arch is missing or is none."""
    if not arch:
        raise TargetError(
            "a cuda target needs an arch", hint="such as -arch=sm_87 for a Jetson Orin"
        )
    match = _ARCH.fullmatch(arch)
    if not match:
        raise TargetError(f"an arch is like sm_87, got {arch[:40]!r}", hint="such as -arch=sm_87")
    return int(match[1])


def _nvcc(nvcc: str) -> tuple[str, list[int]]:
    """The compiler's version, and the numbers of the archs that it knows."""
    words = _output([nvcc, "--version"])
    release = re.search(r"release (\d+\.\d+)", words)
    codes = re.findall(r"sm_(\d+)", _output([nvcc, "--list-gpu-code"]))
    if not release or not codes:
        raise CompileError(
            f"nvcc at {nvcc} does not tell its version and archs",
            hint="install CUDA 11.4 or newer, or take it off the PATH",
        )
    return release[1], [int(code) for code in codes]


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _run(command: list[str], source: str, arch: str) -> None:
    tool = Path(command[0]).name
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise CompileError(
            f"{tool} took more than {TIMEOUT_S:.0f} s for the kernels of {arch}",
            hint="try again when the machine is less busy",
        ) from None
    except OSError as error:
        raise CompileError(
            f"{tool} does not run: {error.strerror}", hint="check the CUDA installation"
        ) from None
    if done.returncode:
        raise _error(done.stderr + done.stdout, source, arch)


def _error(output: str, source: str, arch: str) -> CompileError:
    """One line of the compiler's, and the workload it is about."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = next((line for line in lines if re.search(r"\berror\b|\bfatal\b", line)), "")
    said = said or (lines[0] if lines else "nvcc gave no reason")
    place = re.match(r".*kernels\.cu\((\d+)\)\s*:\s*(.*)", said)
    name = re.search(rf"'(\w+){_SUFFIX}'", said)
    if place:
        where, said = _kernel_at(source, int(place[1])), place[2]
    else:
        where = name[1] if name else ""
    subject = f"kernel {where}" if where else "the source of the kernels"
    return CompileError(
        f"{subject} does not compile for {arch}: {said[:300]}",
        hint="check that nvcc works and has a host compiler, or report it with this architecture",
    )


def _kernel_at(source: str, line: int) -> str:
    """The workload of the kernel whose body holds this line (from 1); "" above the first."""
    found = ""
    for text in source.splitlines()[:line]:
        match = re.search(rf"__global__.*?\b(\w+){_SUFFIX}\(.*{{\s*$", text)
        found = match[1] if match else found
    return found

"""Run a compiled network for another machine under qemu-user, by the bundle's own C++ runner.

What it computes is what the board will; how long it takes says nothing of the board.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from ofatvm.compiler.link import find_compiler, gnu_prefix, run_tool
from ofatvm.compiler.relay_env import relay_package
from ofatvm.device.bundle_runner import how_it_ended, last_line, run_to_end, tail
from ofatvm.device.cpu_features import needed_features
from ofatvm.device.runtime import library_names, tvm_runtime, why_no_runtime
from ofatvm.elf import machine_of, read_elf
from ofatvm.errors import BundleError, CompileError, MeasurementError, MissingInputError
from ofatvm.events import Event, Notice, ignore
from ofatvm.files import replace_file, scratch
from ofatvm.measurement import check_finite
from ofatvm.paths import cache_dir
from ofatvm.road import Ir
from ofatvm.signals import ending_with_parent
from ofatvm.target import Target
from ofatvm.text import counted

COMPILE_TIMEOUT_S = 1800.0
# No core files, and none of more than 256 MiB (in units of 512 bytes).
LIMITED = ("/bin/sh", "-c", 'ulimit -c 0; ulimit -f 524288; exec "$@"', "sh")
# TVM's idle threads spin by giving up their turn: on a busy machine one image then took minutes.
SLEEPING = {"TVM_THREAD_POOL_SPIN_COUNT": "0"}
RUNTIME = Path("runtime")
"""What the runtime's folder is called where a program runs."""
_PROGRAMS = {"i686": "qemu-i386"}
_LOADERS = {
    "aarch64": "lib/ld-linux-aarch64.so.1",
    "arm": "lib/ld-linux-armhf.so.3",
    "riscv64": "lib/ld-linux-riscv64-lp64d.so.1",
    "x86_64": "lib64/ld-linux-x86-64.so.2",
}
# Debian's and Ubuntu's names of the machines, in their cross packages.
_DEBIAN = {"aarch64": "arm64", "arm": "armhf", "x86_64": "amd64"}


@dataclass(frozen=True, slots=True)
class Emulator:
    """qemu-user for a machine, the CPU it imitates, and the folder with that machine's libraries.

    An empty `cpu` is qemu's own choice.
    """

    path: Path
    version: str
    cpu: str
    sysroot: Path

    def __str__(self) -> str:
        """As manifests name it."""
        name = self.path.name.removesuffix("-static")
        return f"{name} {self.version}" + (f", CPU {self.cpu}" if self.cpu else "")

    def command(self, *, libraries: Path) -> list[str]:
        """The words before those of the program to run."""
        cpu = ["-cpu", self.cpu] if self.cpu else []
        paths = ["-L", str(self.sysroot), "-E", f"LD_LIBRARY_PATH={libraries}", "-U", "LD_PRELOAD"]
        return [str(self.path), *cpu, *paths]


def emulator_name(machine: str) -> str:
    """What qemu-user for a machine is called."""
    return _PROGRAMS.get(machine, f"qemu-{machine}")


def emulator_program(machine: str) -> Path | None:
    """qemu-user for a machine, linked statically or not."""
    name = emulator_name(machine)
    found = shutil.which(name) or shutil.which(f"{name}-static")
    return Path(found) if found else None


def find_sysroot(triple: str) -> Path | None:
    """The folder under which the machine's loader and C library lie.

    That of QEMU_LD_PREFIX, of a cross compiler, or the root, where a multiarch system has them.
    """
    loader = _LOADERS.get(machine_of(triple))
    given = os.environ.get("QEMU_LD_PREFIX")
    folders = [Path(given)] if given else []
    folders += [Path("/usr") / gnu_prefix(triple), Path("/usr") / gnu_prefix(triple) / "sys-root"]
    for folder in (*folders, Path("/")):
        if loader and (folder / loader).is_file():
            return folder
    return None


def packages(triple: str) -> tuple[str, str]:
    """What to install for emulating a machine: the emulator, and the machine's libraries."""
    machine = machine_of(triple)
    name = _DEBIAN.get(machine, machine)
    return "qemu-user", f"libc6-{name}-cross libstdc++6-{name}-cross"


def not_executed(target: Target) -> str:
    """What of a target's code qemu-user does not execute, in a sentence; empty if nothing."""
    wide = [name for name in needed_features(target) if name.startswith("avx512")]
    return f"qemu executes no AVX-512 ({wide[0]})" if wide else ""


def why_not_emulated(target: Target, ir: Ir = "relax") -> str:
    """What this machine lacks for running a target's code under qemu; empty if nothing.

    Nothing is fetched.
    """
    if target.kind != "llvm":
        return "its kernels need their own GPU"
    triple = target.mtriple
    machine = machine_of(triple)
    lacking = []
    if emulator_program(machine) is None:
        lacking.append(emulator_name(machine))
    if find_sysroot(triple) is None:
        lacking.append(f"the C library of {machine}")
    if lacking:
        what, way = " and ".join(lacking), " ".join(packages(triple))
        return f"this machine lacks {what} (apt-get install {way})"
    return not_executed(target) or why_no_runtime(machine, ir)


def find_emulator(target: Target, ir: Ir = "relax") -> Emulator:
    """The emulator of a target's CPU; MissingInputError if this machine lacks something for it."""
    reason = why_not_emulated(target, ir)
    machine = machine_of(target.mtriple)
    program, sysroot = emulator_program(machine), find_sysroot(target.mtriple)
    if reason or program is None or sysroot is None:
        raise MissingInputError(f"code for {target.name} cannot be emulated here: {reason}")
    version, cpus = _about(program)
    cpu = target.mcpu if target.mcpu in cpus else "max" if "max" in cpus else ""
    return Emulator(program, version, cpu, sysroot)


@cache
def _about(program: Path) -> tuple[str, frozenset[str]]:
    """Version of a qemu, and the CPUs that it imitates."""
    said = [
        subprocess.run(
            [program, *words], capture_output=True, text=True, check=False, timeout=60
        ).stdout
        for words in (("--version",), ("-cpu", "help"))
    ]
    match = re.search(r"version ([0-9.]+)", said[0])
    return match.group(1) if match else "of unknown version", frozenset(said[1].split())


def run_emulated(
    model: Path,
    images: np.ndarray,
    runner_source: Path,
    target: Target,
    *,
    classes: int,
    timeout_s: float,
    ir: Ir = "relax",
    on_event: Callable[[Event], None] = ignore,
) -> tuple[np.ndarray, Emulator]:
    """Run `model` once per image in one emulated process; outputs (n, classes) and the emulator.

    `images` is (n, height, width, channels) float32; `runner_source` is the bundle's main.cc, which
    is compiled for the machine when it is first seen. Raises MissingInputError for what this
    machine lacks, CompileError for a main.cc that does not compile, and MeasurementError for a
    network that crashes, takes longer than `timeout_s` or answers nonsense.
    """
    emulator = find_emulator(target, ir)
    machine = machine_of(target.mtriple)
    runtime = tvm_runtime(machine, ir, on_event=on_event)
    _check_libraries(runtime, emulator, target.mtriple, library_names(ir))
    runner = build_runner(runner_source, target.mtriple, runtime, ir, on_event=on_event)
    threads = min(target.threads, len(os.sched_getaffinity(0)))
    on_event(
        Notice("info", f"running the code under {emulator} on {counted(len(images), 'image')}")
    )
    with scratch("qemu") as folder:
        np.save(folder / "input.npy", np.ascontiguousarray(images, dtype=np.float32))
        # The emulator and the loader end a folder's name at a comma and a colon: a name without.
        (folder / RUNTIME).symlink_to(runtime.absolute())
        words = emulator.command(libraries=RUNTIME)
        words += [str(runner), str(model.absolute()), "input.npy", "0"]
        environment = (
            os.environ | SLEEPING | {"TVM_NUM_THREADS": str(threads), "TMPDIR": str(folder)}
        )
        with (folder / "output").open("wb") as output, (folder / "messages").open("wb") as messages:
            code = run_to_end(
                [*LIMITED, *words], folder, environment, timeout_s, stdout=output, stderr=messages
            )
        if code != 0:
            raise MeasurementError(
                f"under {emulator}, model.so {how_it_ended(code)}: "
                f"{last_line(tail(folder / 'messages'))}"
            )
        return _outputs(folder / "output", len(images), classes), emulator


def _outputs(path: Path, images: int, classes: int) -> np.ndarray:
    """The "class value" lines of main.cc as an array."""
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    try:
        if len(lines) != images * classes:
            raise ValueError(f"{len(lines)} lines for {images} images of {classes} classes")
        rows = np.array([line.split() for line in lines], dtype=np.float64)
        if rows.shape[1:] != (2,) or not np.array_equal(
            rows[:, 0], np.tile(np.arange(classes), images)
        ):
            raise ValueError("classes out of order")
    except ValueError as error:
        raise MeasurementError(f"model.so gave nonsense: {' '.join(str(error).split())}") from None
    outputs = rows[:, 1].astype(np.float32).reshape(images, classes)
    check_finite(outputs, "model.so")
    return outputs


def _check_libraries(runtime: Path, emulator: Emulator, triple: str, names: Sequence[str]) -> None:
    """Raise MissingInputError naming what the runtime needs and the sysroot has not."""
    folders = [
        emulator.sysroot / name
        for name in ("lib", "lib64", f"lib/{gnu_prefix(triple)}", f"usr/lib/{gnu_prefix(triple)}")
    ]
    needed: set[str] = set()
    for name in names:
        try:
            needed |= set(read_elf(runtime / name).needed)
        except (BundleError, OSError):
            raise MissingInputError(
                f"{runtime / name} is damaged", hint=f"delete {runtime}"
            ) from None
    lacking = sorted(
        name for name in needed - set(names) if not any((f / name).exists() for f in folders)
    )
    if lacking:
        raise MissingInputError(
            f"the TVM runtime needs {', '.join(lacking)}, which {emulator.sysroot} lacks",
            hint=f"apt-get install {packages(triple)[1]}",
        )


def build_runner(
    source: Path,
    triple: str,
    runtime: Path,
    ir: Ir = "relax",
    *,
    on_event: Callable[[Event], None] = ignore,
) -> Path:
    """main.cc compiled for a machine and linked with its TVM runtime; kept for the next time."""
    tool = find_compiler(triple, "c++")
    libraries = [runtime / name for name in library_names(ir)]
    parts = [*tool.command, metadata.version("apache-tvm-ffi"), *map(_file_digest, libraries)]
    digest = hashlib.sha256("\n".join([*parts, _file_digest(source)]).encode()).hexdigest()[:24]
    folder = cache_dir() / "runner"
    path = folder / f"{machine_of(triple)}-{digest}"
    if _is_whole(path):
        return path
    by_zig = bool(tool.environment)
    how = " by ziglang, which takes minutes the first time" if by_zig else ""
    on_event(Notice("info", f"compiling main.cc for {machine_of(triple)}{how}"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with scratch("making", folder) as room:
            shutil.copyfile(source, room / "main.cc")
            words = ["-std=c++17", "-O2", "main.cc", "-o", "runner", *_headers(ir)]
            (room / RUNTIME).symlink_to(runtime.absolute())  # the linker's words end at commas
            words += ["-L", str(RUNTIME), "-Wl,--no-as-needed"]
            words += [f"-l{path.stem.removeprefix('lib')}" for path in libraries]
            words += [f"-Wl,-rpath-link,{RUNTIME}"]
            long = replace(tool, command=tuple(ending_with_parent(tool.command)))
            done = run_tool(long, words, cwd=room, timeout_s=COMPILE_TIMEOUT_S)
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if "error" in line]
                reason = (lines or done.stderr.splitlines() or ["no message"])[0][:300]
                raise CompileError(f"main.cc does not compile for {machine_of(triple)}: {reason}")
            built = room / "runner"
            replace_file(path.with_suffix(".sha256"), _file_digest(built).encode())
            built.replace(path)
    except subprocess.TimeoutExpired:
        raise CompileError(
            f"compiling main.cc took longer than {COMPILE_TIMEOUT_S:g} s",
            hint=f"apt-get install g++-{gnu_prefix(triple)}",
        ) from None
    except OSError as error:
        raise MissingInputError(
            f"cannot keep the compiled main.cc in {folder}: {error.strerror}",
            hint="OFATVM_CACHE names another folder",
        ) from None
    return path


def _is_whole(runner: Path) -> bool:
    """Whether a kept runner is there as it was compiled: it could be cut off, and is executed."""
    try:
        return runner.with_suffix(".sha256").read_text() == _file_digest(runner)
    except (OSError, ValueError):
        return False


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _headers(ir: Ir) -> list[str]:
    """The compiler's words for the headers of the road's runtime, the same on every machine."""
    if ir == "relay":
        home = relay_package()
        parts = ("include", "3rdparty/dlpack/include", "3rdparty/dmlc-core/include")
        logging = "-DDMLC_USE_LOGGING_LIBRARY=<tvm/runtime/logging.h>"
        return [logging, *(word for part in parts for word in ("-I", str(home / part)))]
    found = importlib.util.find_spec("tvm_ffi")
    for folder in found.submodule_search_locations or () if found else ():
        if (Path(folder) / "include").is_dir():
            return ["-I", str(Path(folder) / "include")]
    raise MissingInputError("tvm_ffi has no headers", hint="ofatvm doctor")

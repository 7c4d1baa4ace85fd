"""The programs a simulation needs, and what is made of ours with them once and kept.

qemu-user runs the target's code, llvm-mca and llvm-mc know its instructions, the system's C
compiler makes the plugin, and ziglang the guest program.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from ofatvm.compiler.link import zig_path
from ofatvm.device.qemu import emulator_name, emulator_program
from ofatvm.elf import machine_of
from ofatvm.errors import CompileError, DeviceError, MissingInputError
from ofatvm.files import replace_file, scratch
from ofatvm.hang import HungError, Work
from ofatvm.paths import cache_dir
from ofatvm.signals import NOT_STARTED, ending_with_parent

# What zig calls the machines of `elf.MACHINES`.
_ZIG = {
    "x86_64": "x86_64-linux-musl",
    "aarch64": "aarch64-linux-musl",
    "arm": "arm-linux-musleabihf",
    "riscv64": "riscv64-linux-musl",
}
MCA_NAMES = (*(f"llvm-mca-{version}" for version in reversed(range(14, 40))), "llvm-mca")
"""Names of llvm-mca, the newest first, as Debian installs them."""
TOOL_S = 300.0
WAYS_ON = "apt-get install qemu-user llvm, or measure on a board: --device rpc://HOST:PORT/KEY"


@dataclass(frozen=True, slots=True)
class Tools:
    """Paths of what simulates one machine, and `version`, which all results depend on.

    `widest_cpu` is qemu's name of the CPU that has every instruction it knows.
    """

    qemu: Path
    mca: Path
    mc: Path
    plugin: Path
    guest: Path
    version: str
    widest_cpu: str


class ToolError(DeviceError):
    """A tool of the simulation is broken, was killed or had no room: nothing a candidate did."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        """There is always a way on."""
        way = "is it damaged, memory short or the disk full? Mended, the same command continues"
        super().__init__(message, hint=hint or way)


def find_tools(triple: str, cpu: str, cache_dir: Path) -> Tools:
    """The tools for a triple and a CPU of LLVM's; plugin and guest are made if they are not there.

    Raises DeviceError if qemu or llvm-mca is missing or does not know the CPU, MissingInputError
    if there is no compiler.
    """
    machine = machine_of(triple)
    name, qemu = emulator_name(machine), emulator_program(machine)
    if qemu is None:
        raise DeviceError(
            f"the simulated device needs {name}, which is not installed", hint=WAYS_ON
        )
    mca, mc = _llvm(triple, cpu)
    plugin, guest = _plugin(cache_dir), _guest(machine, cache_dir)
    parts = [_version(str(qemu)), _version(str(mca)), plugin.name, guest.name]
    widest = "rv64" if machine == "riscv64" else "max"
    return Tools(qemu, mca, mc, plugin, guest, "; ".join(parts), widest)


def lld() -> list[str]:
    """The words that start the linker of ziglang."""
    return [*_zig(), "ld.lld"]


def run(
    words: Sequence[str | Path],
    what: str,
    *,
    given: str | None = None,
    within: Path | None = None,
    long: bool = False,
) -> str:
    """What a tool prints, started `within` a folder; CompileError with its last line if it fails.

    ToolError if it does not start, a signal ended it, it hangs, or the disk is full.
    """
    zig_cache = os.environ.get("ZIG_GLOBAL_CACHE_DIR") or str(cache_dir() / "zig")
    environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": zig_cache}
    try:
        done = start(
            words, what, environment, given=given, within=within, timeout_s=TOOL_S, long=long
        )
    except TimeoutError:
        raise ToolError(f"{what} took longer than {TOOL_S:.0f} s") from None
    if done.returncode:
        text = f"{what} failed: {last_words(done)}"
        if done.returncode < 0 or os.strerror(errno.ENOSPC) in done.stderr:
            raise ToolError(text)
        raise CompileError(text)
    return done.stdout


def start(
    words: Sequence[str | Path],
    what: str,
    environment: Mapping[str, str],
    *,
    given: str | None = None,
    within: Path | None = None,
    timeout_s: float,
    long: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and once more if that was not its own.

    So if it was killed, as for want of memory, or had no time, which may have passed while it was
    stopped: TimeoutError, at once if it provably hangs. ToolError if there is none or it does not
    start. What may run `long` is killed when this process is.
    """
    command = [str(word) for word in words]
    if long:
        command = ending_with_parent(command)
    for last in (False, True):
        try:
            done = ended(command, environment, given, within, timeout_s)
        except TimeoutError as error:
            if last or isinstance(error, HungError):
                raise
        except OSError as error:
            raise ToolError(f"{what} failed: {words[0]}: {error.strerror or error}") from None
        else:
            if done.returncode != -signal.SIGKILL:
                break
    if long and done.returncode == NOT_STARTED:
        raise ToolError(f"{what} failed: {last_words(done)}")
    return done


def ended(
    command: Sequence[str],
    environment: Mapping[str, str],
    given: str | None,
    within: Path | None,
    timeout_s: float,
) -> subprocess.CompletedProcess[str]:
    """Run a program once to its end; TimeoutError, or HungError if that is proved."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        cwd=within,
    ) as process:
        work = Work(process.pid)
        try:
            out, err = process.communicate(given, timeout_s)
        except subprocess.TimeoutExpired:
            raise HungError if work.fills(timeout_s) else TimeoutError from None
        finally:
            process.kill()  # no harm to one that has ended
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def asked(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What a program says of itself."""
    try:
        return start(words, "starting it", os.environ, given="", timeout_s=TOOL_S)
    except TimeoutError:
        raise ToolError(f"{words[0]} took longer than {TOOL_S:.0f} s") from None


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a program said, or how it ended."""
    lines = done.stderr.strip().splitlines()
    if lines:
        return lines[-1][:160]
    return f"code {done.returncode}" if done.returncode >= 0 else f"signal {-done.returncode}"


def _llvm(triple: str, cpu: str) -> tuple[Path, Path]:
    """llvm-mca and llvm-mc of the newest LLVM here that has a scheduling model of the CPU.

    Models get better with time: LLVM 14 still gives Zen 3 half of its multiply-adds a cycle.
    """
    found, broken = False, None
    for name in MCA_NAMES:
        mca, mc = shutil.which(name), shutil.which(name.replace("llvm-mca", "llvm-mc"))
        if mca and mc:
            found = True
            try:
                if cpu in _cpus(mca, triple):
                    return Path(mca), Path(mc)
            except ToolError as error:
                broken = error
    if broken:
        raise broken
    if not found:
        raise DeviceError(
            "the simulated device needs llvm-mca, which is not installed", hint=WAYS_ON
        )
    raise DeviceError(
        f"no llvm-mca here knows the CPU {cpu[:60]!r}",
        hint="install a newer LLVM, as apt-get install llvm-19, or name another scheduling model",
    )


@cache
def _cpus(mca: str, triple: str) -> frozenset[str]:
    done = asked([mca, f"-mtriple={triple}", "-mcpu=help"])
    said = done.stderr + done.stdout
    found = re.findall(r"^\s+(\S+)\s+- Select", said, re.MULTILINE)
    if not found:
        raise ToolError(f"{mca} names no CPUs: {last_words(done)}")
    return frozenset(found)


@cache
def _version(program: str) -> str:
    done = asked([program, "--version"])
    match = re.search(r"\d+\.\d+(\.\d+)?", done.stdout)
    if not match:
        raise ToolError(f"{program} names no version: {last_words(done)}")
    return f"{Path(program).name} {match.group()}"


def _plugin(cache_dir: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    source = resources.files(__package__).joinpath("plugin.c").read_text(encoding="utf-8")
    flags = ["-std=c11", "-O2", "-shared", "-fPIC", "-fvisibility=hidden"]
    if compiler is None:
        raise MissingInputError("no C compiler for qemu's plugin", hint="apt-get install gcc")
    return _made(cache_dir, "plugin", ".so", source, [compiler, *flags])


def _guest(machine: str, cache_dir: Path) -> Path:
    source = resources.files(__package__).joinpath("guest.c").read_text(encoding="utf-8")
    if machine not in _ZIG:
        raise DeviceError(
            f"the simulated device does not know {machine}", hint=f"it knows {', '.join(_ZIG)}"
        )
    flags = ["-std=c11", "-O2", "-ffreestanding", "-fno-builtin", "-fno-stack-protector"]
    flags += ["-g0", "-fno-sanitize=undefined", "-target", _ZIG[machine], "-c"]
    return _made(cache_dir, f"guest-{machine}", ".o", source, [*_zig(), "cc", *flags])


def _zig() -> list[str]:
    path = zig_path()
    if path is None:
        raise MissingInputError(
            "the simulated device needs ziglang, which is not installed",
            hint="pip install ziglang, or make setup",
        )
    return [str(path)]


def _made(cache_dir: Path, name: str, suffix: str, source: str, compiler: Sequence[str]) -> Path:
    """What the compiler makes of a source, named by both; made once, replaced whole."""
    text = "\n".join([source, *compiler[1:]])
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = cache_dir / f"{name}-{digest}{suffix}"
    known = path.with_suffix(".sha256")
    if path.is_file() and known.is_file() and known.read_bytes() == _digest(path):
        return path
    cache_dir.mkdir(parents=True, exist_ok=True)
    with scratch("making", cache_dir) as room:
        (room / f"{name}.c").write_text(source, encoding="utf-8")
        words = [*compiler, f"{name}.c", "-o", f"built{suffix}"]
        try:
            # Within the folder, as zig does not read every path.
            run(words, f"compiling {name}.c", within=room, long=True)
        except CompileError as error:
            raise ToolError(error.message) from None
        built = room / f"built{suffix}"
        replace_file(known, _digest(built))
        os.replace(built, path)
    return path


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).hexdigest().encode()

"""Build the TVM runtime of a machine for which there are no wheels, for running code under qemu.

    python scripts/build_runtime.py armv7-linux-gnueabihf
    python scripts/build_runtime.py riscv64-linux-gnu

The sources are those in the installed wheels of tvm and tvm_ffi, as far as running a network on the
CPU needs them; the wheels lack five headers, for which `runtime_headers/` has stand-ins that read
and write the same bytes. The result lies where `ofatvm verify` looks: `ofatvm doctor` names it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from ofatvm.compiler.link import Tool, find_compiler, run_tool
from ofatvm.device.runtime import runtime_folder
from ofatvm.elf import machine_of
from ofatvm.errors import CompileError, OfatvmError

RUNTIME = (
    "const_loader_module",
    "cpu_device_api",
    "device_api",
    "file_utils",
    "logging",
    "module",
    "static_library",
    "tensor",
    "thread_pool",
    "threading_backend",
    "timer",
    "workspace_pool",
    "memory/memory_manager",
    "vm/builtin",
    "vm/bytecode",
    "vm/executable",
    "vm/vm",
)
LEFT_OUT = ("testing", "backtrace_win")
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-w", "-pthread")
DEFINES = ("-DTVM_FFI_USE_LIBBACKTRACE=0", "-DTVM_FFI_BACKTRACE_ON_SEGFAULT=0")
DEFINES += ("-DTVM_FFI_CMAKE_LITTLE_ENDIAN=1", "-DTVM_FFI_EXPORTS=1", "-DTVM_RUNTIME_EXPORTS=1")
LONGEST_S = 1800.0


def main() -> int:
    """Build both libraries and put them into the cache."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("triple", help="such as armv7-linux-gnueabihf")
    triple = parser.parse_args().triple
    try:
        print(build(triple))
    except OfatvmError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


def build(triple: str) -> Path:
    """The folder of the finished runtime."""
    tool = find_compiler(triple, "c++")
    tvm, ffi = package("tvm"), package("tvm_ffi")
    headers = Path(__file__).with_name("runtime_headers")
    with tempfile.TemporaryDirectory(prefix="ofatvm-build-") as name:
        folder = Path(name)
        # Sources name two headers by their place beside them, so they are built in a copy.
        places = {"runtime": tvm / "src/runtime", "support": headers / "support"}
        for inside, source in places.items():
            shutil.copytree(source, folder / inside)
        include = [headers, tvm / "include", ffi / "include", folder]
        words = [*FLAGS, *DEFINES, *(f"-I{path}" for path in include)]
        found = sorted((ffi / "src/ffi").rglob("*.cc"))
        ffi_sources = [path for path in found if path.stem not in LEFT_OUT]
        tvm_sources = [folder / "runtime" / f"{name}.cc" for name in RUNTIME]
        objects = compile_all(tool, words, [*ffi_sources, *tvm_sources], folder)
        own, others = objects[: len(ffi_sources)], objects[len(ffi_sources) :]
        out = runtime_folder(machine_of(triple))
        out.mkdir(parents=True, exist_ok=True)
        shared = ["-shared", "-Wl,-rpath,$ORIGIN", "-pthread"]
        if tool.environment:
            # ziglang puts a C++ library into each file. Half of one and half of another, as the
            # loader would have it, do not work together.
            shared.append("-Wl,-Bsymbolic")
        first, second = folder / "libtvm_ffi.so", folder / "libtvm_runtime.so"
        run(tool, [*shared, "-Wl,-soname,libtvm_ffi.so", *own, "-ldl", "-o", first])
        named = ["-Wl,-soname,libtvm_runtime.so", f"-L{folder}", "-ltvm_ffi", "-ldl"]
        run(tool, [*shared, *others, *named, "-o", second])
        for library in (first, second):
            part = out / f".{library.name}.{os.getpid()}"
            part.write_bytes(library.read_bytes())
            part.replace(out / library.name)
    return out


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    found = find_spec(name)
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


def compile_all(tool: Tool, words: list[str], sources: list[Path], folder: Path) -> list[Path]:
    """An object file for each source, some at a time."""

    def one(number: int) -> Path:
        out = folder / f"{number}.o"
        print(f"{number + 1}/{len(sources)} {sources[number].name}", file=sys.stderr)
        run(tool, [*words, "-c", sources[number], "-o", out])
        return out

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(one, range(len(sources))))


def run(tool: Tool, words: list[str | Path]) -> None:
    """Run the compiler; CompileError with its first complaint if it fails."""
    done = run_tool(tool, [str(word) for word in words], timeout_s=LONGEST_S)
    if done.returncode:
        lines = [
            line for line in done.stderr.splitlines() if "error" in line or "undefined" in line
        ]
        raise CompileError((lines or [done.stderr[-300:]])[0])


if __name__ == "__main__":
    sys.exit(main())

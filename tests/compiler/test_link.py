"""One linker for each machine, chosen by rule; what it makes is checked."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from ofatvm.compiler import link as module
from ofatvm.compiler.link import (
    check_linked,
    find_compiler,
    find_linker,
    gnu_prefix,
    link,
    linked_triple,
    zig_path,
    zig_target,
)
from ofatvm.compiler.llvm import compile_ir
from ofatvm.elf import read_elf
from ofatvm.errors import CompileError, MissingInputError
from ofatvm.target import Target
from tests.foreign import A72, ARMV7, RISCV64
from tests.workbench import TARGET

HERE = platform.machine()
IR = """declare {0} @{1}({0})
define {0} @twice({0} %x) {{
  %y = call {0} @{1}({0} %x)
  ret {0} %y
}}"""


def compiled(target: Target, folder: Path, function: str = "sched_yield") -> str:
    path = folder / "one.o"
    compile_ir(IR.format("i32", function), target, path)
    return str(path)


@pytest.mark.parametrize(
    ("target", "machine"),
    [(A72, "aarch64"), (ARMV7, "arm"), (RISCV64, "riscv64"), (TARGET, HERE)],
    ids=["aarch64", "armv7", "riscv64", "here"],
)
def test_libraries_for_every_machine(target: Target, machine: str, tmp_path: Path) -> None:
    out = tmp_path / "one.so"
    link(target, str(out), [compiled(target, tmp_path)])
    facts = read_elf(out)
    assert (facts.machine, facts.needed, facts.glibc) == (machine, (), None)
    assert "sched_yield" in facts.undefined
    check_linked(out, target)


def test_the_hard_float_convention_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "one.so"
    link(ARMV7, str(out), [compiled(ARMV7, tmp_path)])
    flags = int.from_bytes(out.read_bytes()[36:40], "little")
    assert flags & 0x400, "EF_ARM_ABI_FLOAT_HARD"
    out.unlink()
    link(RISCV64, str(out), [compiled(RISCV64, tmp_path)])
    assert int.from_bytes(out.read_bytes()[48:52], "little") & 0x6 == 0x4, "double-float"


def test_pages_of_64_kib_are_minded(tmp_path: Path) -> None:
    out = tmp_path / "one.so"
    link(A72, str(out), [compiled(A72, tmp_path)])
    # Each program header's p_align: PT_LOAD must fit kernels with large pages (Raspberry Pi 5).
    data = out.read_bytes()
    count = int.from_bytes(data[56:58], "little")
    headers = [data[64 + 56 * i : 120 + 56 * i] for i in range(count)]
    loads = [h for h in headers if int.from_bytes(h[:4], "little") == 1]
    assert {int.from_bytes(h[48:56], "little") for h in loads} == {0x10000}


def test_the_system_links_where_ziglang_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("aarch64-linux-gnu-ld") is None:
        pytest.skip("needs binutils-aarch64-linux-gnu")
    monkeypatch.setattr(module, "zig_path", lambda: None)
    out = tmp_path / "one.so"
    link(A72, str(out), [compiled(A72, tmp_path)])
    assert read_elf(out).machine == "aarch64"
    check_linked(out, A72)


@pytest.mark.parametrize(
    ("triple", "zig", "there", "chosen"),
    [
        ("", True, {"ld"}, "/bin/ld"),
        ("", True, set(), "ld.lld"),
        ("aarch64-linux-gnu", True, {"ld", "aarch64-linux-gnu-ld"}, "ld.lld"),
        ("aarch64-linux-gnu", False, {"ld", "aarch64-linux-gnu-ld"}, "/bin/aarch64-linux-gnu-ld"),
        ("armv7-linux-gnueabihf", False, {"arm-linux-gnueabihf-ld"}, "/bin/arm-linux-gnueabihf-ld"),
    ],
)
def test_which_linker(
    monkeypatch: pytest.MonkeyPatch, triple: str, zig: bool, there: set[str], chosen: str
) -> None:
    monkeypatch.setattr(module, "zig_path", lambda: Path("/zig") if zig else None)
    monkeypatch.setattr(module.shutil, "which", lambda n: f"/bin/{n}" if n in there else None)
    assert find_linker(triple).command[-1] == chosen


def test_which_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OFATVM_CACHE", str(tmp_path))
    monkeypatch.delenv("ZIG_GLOBAL_CACHE_DIR", raising=False)
    monkeypatch.setattr(module, "zig_path", lambda: Path("/zig"))
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    tool = find_compiler("riscv64-linux-gnu", "c++")
    assert tool.command == ("/zig", "c++", "-target", "riscv64-linux-gnu.2.35")
    assert tool.environment == {"ZIG_GLOBAL_CACHE_DIR": str(tmp_path / "zig")}
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", "/mine")
    assert find_compiler("", "c").command == ("/zig", "cc")
    assert find_compiler("", "c").environment == {"ZIG_GLOBAL_CACHE_DIR": "/mine"}
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/bin/{name}")
    assert find_compiler("riscv64-linux-gnu", "c++").command == ("/bin/riscv64-linux-gnu-g++",)


def test_without_any_linker_both_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "zig_path", lambda: None)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(MissingInputError, match="no linker for aarch64") as caught:
        find_linker("aarch64-linux-gnu")
    assert caught.value.exit_code == 5
    assert caught.value.hint == "pip install ziglang, or apt-get install binutils-aarch64-linux-gnu"
    with pytest.raises(MissingInputError, match="no ld found"):
        find_linker("")
    with pytest.raises(MissingInputError, match=r"no C\+\+ compiler for arm"):
        find_compiler("armv7-linux-gnueabihf", "c++")


def test_this_machine_needs_no_triple() -> None:
    assert linked_triple(None) == linked_triple(TARGET) == ""
    assert linked_triple(Target(name="x", mtriple=f"{HERE}-linux-gnu")) == ""
    assert linked_triple(A72) == "aarch64-linux-gnu"
    assert linked_triple(Target(name="gpu", kind="cuda", arch="sm_87", host=A72)) == A72.mtriple


@pytest.mark.parametrize(
    ("triple", "prefix", "zig"),
    [
        ("aarch64-linux-gnu", "aarch64-linux-gnu", "aarch64-linux-gnu.2.28"),
        ("armv7-linux-gnueabihf", "arm-linux-gnueabihf", "arm-linux-gnueabihf.2.28"),
        ("armv7-linux-gnueabi", "arm-linux-gnueabi", "arm-linux-gnueabi.2.28"),
        ("armv7", "arm-linux-gnueabihf", "arm-linux-gnueabihf.2.28"),
        ("riscv64-linux-gnu", "riscv64-linux-gnu", "riscv64-linux-gnu.2.35"),
        ("x86_64-pc-linux-gnu", "x86_64-linux-gnu", "x86_64-linux-gnu.2.28"),
        ("i686-linux-gnu", "i686-linux-gnu", "x86-linux-gnu.2.28"),
        ("aarch64-linux-musl", "aarch64-linux-musl", "aarch64-linux-musl"),
    ],
)
def test_names_of_tools(triple: str, prefix: str, zig: str) -> None:
    assert gnu_prefix(triple) == prefix
    assert zig_target(triple) == zig


def test_a_library_that_cannot_run_on_the_board_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "one.so"
    link(A72, str(out), [compiled(A72, tmp_path, "__truncxfbf2")])
    with pytest.raises(CompileError, match="nothing on the board has __truncxfbf2"):
        check_linked(out, A72)
    with pytest.raises(CompileError, match="it is for aarch64"):
        check_linked(out, RISCV64)
    out.write_bytes(b"nothing")
    with pytest.raises(CompileError, match="cannot be read"):
        check_linked(out, A72)


def test_a_linker_that_fails_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"linking .*one\.so failed") as caught:
        link(A72, str(tmp_path / "one.so"), [str(tmp_path / "none.o")])
    assert "none.o" in caught.value.message


def test_zig_is_found_without_starting_it() -> None:
    path = zig_path()
    assert path is not None
    assert path.name == "zig"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo one.so: final close failed: No space left on device >&2; exit 1", "^no space left"),
        ("kill -XFSZ $$", r"one\.so failed: File size limit exceeded$"),
        ("exit 3", r"one\.so failed: exit code 3$"),
    ],
)
def test_what_ended_a_linker_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    tool = module.Tool(("sh", "-c", script))
    monkeypatch.setattr(module, "find_linker", lambda triple: tool)
    with pytest.raises(CompileError, match=said):
        link(None, str(tmp_path / "one.so"), [str(tmp_path / "one.o")])

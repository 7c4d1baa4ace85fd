"""Modules in LLVM IR become object files, or one line of why not."""

from __future__ import annotations

import ctypes
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from ofatvm.compiler.link import link_host
from ofatvm.compiler.llvm import compile_ir, pause, triple
from ofatvm.elf import MACHINES, is_whole_object
from ofatvm.errors import CompileError
from ofatvm.target import Target
from tests.workbench import TARGET

TWICE = "define i32 @twice(i32 %x) {\n  %y = shl i32 %x, 1\n  ret i32 %y\n}"
PAUSES = {
    "x86_64-linux-gnu": "pause",
    "i686-linux-gnu": "pause",
    "aarch64-linux-gnu": "yield",
    "arm64-linux-gnu": "yield",
    "armv7l-linux-gnueabihf": "yield",
    "riscv64-linux-gnu": "",
}


def for_machine(name: str) -> Target:
    return Target(name="board", mtriple=name, num_cores=1)


def test_a_function_is_compiled(tmp_path: Path) -> None:
    path = tmp_path / "twice.o"
    compile_ir(TWICE, TARGET, path)
    assert is_whole_object(path)
    link_host(str(tmp_path / "twice.so"), [str(path)])
    assert ctypes.CDLL(str(tmp_path / "twice.so")).twice(21) == 42


@pytest.mark.parametrize(
    "text",
    [
        "define i32 @twice(",
        "no module at all",
        "define i32 @f() {\n  ret i64 0\n}",
        "define i32 @f() {\n  %x = call i32 @absent()\n  ret i32 %x\n}",
        "define void @f() {\n  br label %nowhere\n}",
        f"{TWICE}\n{TWICE}",
    ],
)
def test_what_llvm_refuses_is_an_error_of_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.o"
    with pytest.raises(CompileError, match=r"LLVM refuses the program: .") as caught:
        compile_ir(text, TARGET, path)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
    assert not path.exists()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        compile_ir(TWICE, TARGET, tmp_path / "absent" / "twice.o")
    assert "\n" not in caught.value.message


def test_no_source_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    compile_ir(TWICE, TARGET, tmp_path / "twice.o")
    with pytest.raises(CompileError):
        compile_ir("no module", TARGET, tmp_path / "bad.o")
    assert [path.name for path in tmp_path.iterdir()] == ["twice.o"]


@pytest.mark.parametrize(("name", "word"), PAUSES.items())
def test_waiting_threads_say_so_in_their_machines_words(name: str, word: str) -> None:
    assert pause(for_machine(name)) == word


@pytest.mark.parametrize("name", [name for name in PAUSES if not name.startswith(("arm", "i686"))])
def test_every_machine_knows_its_word(tmp_path: Path, name: str) -> None:
    call = f'call void asm sideeffect "{PAUSES[name]}", ""()'
    path = tmp_path / "wait.o"
    compile_ir(f"define void @wait() {{\n  {call}\n  ret void\n}}", for_machine(name), path)
    assert is_whole_object(path)
    machine = int.from_bytes(path.read_bytes()[18:20], "little")
    assert MACHINES[machine, 64] == name.split("-")[0]


def test_a_target_without_a_triple_is_this_machine() -> None:
    from tvm.target import codegen

    assert triple(replace(TARGET, mtriple="")) == codegen.llvm_get_system_triple()
    assert triple(for_machine("aarch64-linux-gnu")) == "aarch64-linux-gnu"

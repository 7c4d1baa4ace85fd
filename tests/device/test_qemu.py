"""What runs under qemu, what is said where it cannot, and that its answers are read with care."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofatvm.bundle.card import cpp_source
from ofatvm.compiler.link import Tool
from ofatvm.device import qemu, runtime
from ofatvm.device.qemu import (
    LIMITED,
    Emulator,
    find_emulator,
    run_emulated,
    why_not_emulated,
)
from ofatvm.errors import CompileError, MeasurementError, MissingInputError
from ofatvm.target import Target
from tests.foreign import A72, ARMV7, require_emulation


def test_what_lacks_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "emulator_program", lambda machine: None)
    monkeypatch.setattr(qemu, "find_sysroot", lambda triple: None)
    assert why_not_emulated(ARMV7) == (
        "this machine lacks qemu-arm and the C library of arm "
        "(apt-get install qemu-user libc6-armhf-cross libstdc++6-armhf-cross)"
    )
    with pytest.raises(MissingInputError, match="code for cortex-a72 cannot be emulated here"):
        find_emulator(A72)
    gpu = Target(name="gpu", kind="cuda", arch="sm_87", host=A72)
    assert "GPU" in why_not_emulated(gpu)


def test_the_sysroot_may_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "ld-linux-aarch64.so.1").touch()
    monkeypatch.setenv("QEMU_LD_PREFIX", str(tmp_path))
    assert qemu.find_sysroot(A72.mtriple) == tmp_path
    assert qemu.find_sysroot("mips-linux-gnu") is None


@pytest.mark.parametrize(
    ("mcpu", "cpu"), [("cortex-a72", "cortex-a72"), ("cortex-x925", "max"), ("", "max")]
)
def test_the_cpu_is_the_target_s_if_qemu_has_it(
    monkeypatch: pytest.MonkeyPatch, mcpu: str, cpu: str
) -> None:
    monkeypatch.setattr(qemu, "why_not_emulated", lambda target, ir: "")
    monkeypatch.setattr(qemu, "emulator_program", lambda machine: Path("/bin/qemu-x-static"))
    monkeypatch.setattr(qemu, "find_sysroot", lambda triple: Path("/sysroot"))
    monkeypatch.setattr(qemu, "_about", lambda path: ("7.2", frozenset({"max", "cortex-a72"})))
    emulator = find_emulator(Target(name="x", mtriple=A72.mtriple, mcpu=mcpu))
    assert emulator == Emulator(Path("/bin/qemu-x-static"), "7.2", cpu, Path("/sysroot"))
    assert str(emulator) == f"qemu-x 7.2, CPU {cpu}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 lines for 2 images of 2 classes"),
        ("0 1\n1 2\n0 1\n", "3 lines"),
        ("0 1\n1 2\n0 1\n1 x\n", "nonsense: could not convert"),
        ("0 1\n1 2\n1 1\n0 2\n", "out of order"),
        ("0\n1\n0\n1\n", "nonsense"),
        ("0 1\n1\n0 1\n1 1\n", "nonsense"),
        ("0 1\n1 nan\n0 1\n1 -inf\n", "not finite for 2 of 2 inputs"),
    ],
)
def test_nonsense_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "output").write_text(text)
    with pytest.raises(MeasurementError, match=message) as caught:
        qemu._outputs(tmp_path / "output", 2, 2)
    assert "\n" not in caught.value.message


def test_a_runner_that_does_not_compile_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_compiler()
    monkeypatch.setenv("OFATVM_CACHE", str(tmp_path / "cache"))
    for name in runtime.NAMES:
        (tmp_path / name).touch()
    (tmp_path / "main.cc").write_text("int main() { return nothing; }")
    with pytest.raises(CompileError, match=r"main.cc does not compile for aarch64: .*nothing"):
        qemu.build_runner(tmp_path / "main.cc", A72.mtriple, tmp_path)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["runner"]
    assert list((tmp_path / "cache" / "runner").iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "changed", "no digest"])
def test_a_kept_runner_that_was_damaged_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("OFATVM_CACHE", str(tmp_path / "cache"))
    for name in runtime.NAMES:
        (tmp_path / name).touch()
    (tmp_path / "main.cc").write_text("int main() { return 0; }")
    compiled = []

    def compile_it(tool: Any, words: Any, *, cwd: Path, timeout_s: float) -> Any:
        compiled.append(words)
        (cwd / "runner").write_bytes(b"a program")
        return subprocess.CompletedProcess(words, 0, "", "")

    tool = Tool(("c++",))
    monkeypatch.setattr(qemu, "find_compiler", lambda triple, language: tool)
    monkeypatch.setattr(qemu, "run_tool", compile_it)

    def built() -> Path:
        return qemu.build_runner(tmp_path / "main.cc", A72.mtriple, tmp_path)

    path = built()
    assert built() == path
    assert len(compiled) == 1
    if damage == "no digest":
        path.with_suffix(".sha256").unlink()
    else:
        path.write_bytes(b"" if damage == "cut" else b"A program")
    assert built() == path
    assert path.read_bytes() == b"a program"
    assert len(compiled) == 2


CRASH = "  call void @llvm.trap()\n  unreachable"


def require_compiler() -> None:
    """Skip where only ziglang compiles C++, which takes minutes at first."""
    from ofatvm.compiler.link import find_compiler

    if find_compiler(A72.mtriple, "c++").environment:
        pytest.skip("needs g++-aarch64-linux-gnu")


@pytest.mark.qemu
@pytest.mark.parametrize("name", ["not a network", "endless", "crash"])
def test_modules_that_go_wrong(name: str, tmp_path: Path) -> None:
    require_emulation(A72)
    body, message = {
        "not a network": ("  ret void", "model.so failed"),
        "endless": ("  br label %again\nagain:\n  br label %again", "took longer than 10 s"),
        "crash": (CRASH, "model.so crashed"),
    }[name]
    with pytest.raises(MeasurementError, match=message) as caught:
        run_when_loaded(body, tmp_path)
    assert "\n" not in caught.value.message


@pytest.mark.qemu
def test_the_cache_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_emulation(A72)
    require_compiler()
    known = runtime.tvm_runtime("aarch64")
    odd = tmp_path / "a, b: c = d"
    monkeypatch.setenv("OFATVM_CACHE", str(odd))
    shutil.copytree(known, runtime.runtime_folder("aarch64", "relax"))
    with pytest.raises(MeasurementError, match=r"model\.so crashed"):
        run_when_loaded(CRASH, tmp_path)
    assert [path.suffix for path in (odd / "runner").iterdir()].count(".sha256") == 1


def run_when_loaded(body: str, tmp_path: Path) -> None:
    """Run a module which does this, in LLVM's words, when it is loaded."""
    from ofatvm.compiler.link import link
    from ofatvm.compiler.llvm import compile_ir

    text = f"define void @start() {{\n{body}\n}}\ndeclare void @llvm.trap()\n"
    text += "@llvm.global_ctors = appending global [1 x { i32, ptr, ptr }] "
    text += "[{ i32, ptr, ptr } { i32 65535, ptr @start, ptr null }]\n"
    compile_ir(text, A72, tmp_path / "bad.o")
    link(A72, str(tmp_path / "bad.so"), [str(tmp_path / "bad.o")])
    (tmp_path / "main.cc").write_text(cpp_source((1, 2, 2, 1)))
    run_emulated(
        tmp_path / "bad.so",
        np.zeros((1, 2, 2, 1), np.float32),
        tmp_path / "main.cc",
        A72,
        classes=2,
        timeout_s=10,
    )


def test_what_runs_under_an_emulator_leaves_no_core_and_no_huge_file() -> None:
    words = [*LIMITED, "/bin/sh", "-c", "ulimit -c; ulimit -f"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["0", "524288"], "")

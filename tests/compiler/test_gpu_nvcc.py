"""Kernels are compiled when a network is built, and what cannot be compiled is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ofatvm.compiler.gpu_nvcc import OLD_ISA, arch_number, compile_kernels
from ofatvm.errors import CompileError, TargetError

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")

SOURCE = """
extern "C" __global__ void __launch_bounds__(32) mean_2x2x8_kernel(float* x_ptr);
extern "C" __global__ void __launch_bounds__(32) mean_2x2x8_kernel(float* x_ptr) {
  __shared__ float kept_ptr[64];
  kept_ptr[threadIdx.x] = x_ptr[threadIdx.x];
  x_ptr[threadIdx.x] = __shfl_down_sync(__activemask(), kept_ptr[threadIdx.x], 1, 32);
}
"""


def fake_nvcc(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = folder / "nvcc"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@needs_nvcc
def test_an_arch_that_nvcc_knows_gets_machine_code() -> None:
    code = compile_kernels(SOURCE, "sm_87")
    assert (code.format, code.notes, code.code[:4]) == ("cubin", (), b"\x7fELF")


@needs_nvcc
@pytest.mark.parametrize(
    ("arch", "wanted"),
    [
        ("sm_53", f".version {OLD_ISA}\n.target sm_53"),
        ("sm_72", f".version {OLD_ISA}\n.target sm_72"),
        ("sm_999", ".target sm_"),
    ],
)
def test_an_arch_that_nvcc_does_not_know_gets_ptx_and_a_note(arch: str, wanted: str) -> None:
    code = compile_kernels(SOURCE, arch)
    assert code.format == "ptx"
    assert wanted in code.code.decode()
    assert len(code.notes) == 1
    assert code.notes[0].startswith("kernels were not compiled: nvcc ")
    assert f"knows no {arch};" in code.notes[0]


@needs_nvcc
@pytest.mark.parametrize(
    ("right", "wrong", "reason"),
    [
        ("= x_ptr[", "= y_ptr[", 'error: identifier "y_ptr" is undefined'),
        ("kept_ptr[64]", "kept_ptr[64000]", "uses too much shared data"),
    ],
)
@pytest.mark.parametrize("arch", ["sm_87", "sm_72"])
def test_a_broken_kernel_is_named(arch: str, right: str, wrong: str, reason: str) -> None:
    assert right in SOURCE
    with pytest.raises(
        CompileError, match=rf"kernel mean_2x2x8 does not compile for {arch}: "
    ) as e:
        compile_kernels(SOURCE.replace(right, wrong), arch)
    assert reason in e.value.message
    assert "\n" not in e.value.message


def test_without_nvcc_kernels_stay_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code = compile_kernels(SOURCE, "sm_87")
    assert (code.format, code.code.decode()) == ("source", SOURCE)
    assert code.notes[0].startswith("kernels were not compiled: no nvcc was found;")


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense"])
def test_an_nvcc_that_does_not_work_is_said(
    script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_nvcc(tmp_path, monkeypatch, script)
    with pytest.raises(CompileError, match="does not tell its version and archs"):
        compile_kernels(SOURCE, "sm_87")


def test_an_nvcc_that_fails_without_a_place_gives_its_first_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = (
        'case "$1" in --version) echo "release 13.0";; --list-gpu-code) echo sm_87;; '
        "*) echo 'nvcc fatal : no host compiler' >&2; exit 1;; esac"
    )
    fake_nvcc(tmp_path, monkeypatch, script)
    with pytest.raises(CompileError, match="kernels does not compile for sm_87: nvcc fatal : no"):
        compile_kernels(SOURCE, "sm_87")


@pytest.mark.parametrize("arch", ["", "87", "sm_", "sm_87; rm", "compute_87", "SM_87", "sm_87x"])
def test_an_arch_is_required_and_checked(arch: str) -> None:
    with pytest.raises(TargetError):
        arch_number(arch)


def test_archs_with_a_letter_are_archs() -> None:
    assert [arch_number(arch) for arch in ("sm_53", "sm_90a", "sm_100f")] == [53, 90, 100]

"""The doctor names what is missing."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from ofatvm.cli import doctor
from ofatvm.compiler import link
from ofatvm.device import qemu

Ofatvm = Callable[..., Any]


def test_a_sound_machine_passes(ofatvm: Ofatvm) -> None:
    answer = ofatvm("doctor", "--json")
    assert answer.code == 0
    checks = {check["name"]: check for check in answer.json["checks"]}
    assert checks["apache-tvm-ffi"]["found"] == "0.1.14.post1"
    assert checks["apache-tvm-ffi"]["status"] == "ok"
    assert {"python", "torch", "ld", "cc", "C++ compiler", "CPU cores", "free disk"} <= set(checks)
    assert {"zig", "qemu-aarch64", "aarch64 libraries", "riscv64-linux-gnu-g++"} <= set(checks)
    assert "pytest" not in checks


def test_the_table_fits_60_columns(ofatvm: Ofatvm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    answer = ofatvm("doctor")
    assert answer.code == 0
    heading = answer.out.splitlines()[0]
    assert heading.startswith("check")
    assert len(heading) <= 60


@pytest.mark.parametrize(
    ("package", "version"), [("apache-tvm-ffi", "0.1.15.post2"), ("xgboost", "4.0.0")]
)
def test_a_wrong_version_is_exit_5(
    ofatvm: Ofatvm, monkeypatch: pytest.MonkeyPatch, package: str, version: str
) -> None:
    real = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: version if name == package else real(name)
    )
    answer = ofatvm("doctor", "--json")
    assert answer.code == 5
    assert answer.json["ok"] is False
    assert package in answer.json["error"]["message"]
    found = [check for check in answer.json["checks"] if check["name"] == package]
    assert (found[0]["status"], found[0]["found"]) == ("missing", version)


def test_llvm_mca_is_found_by_the_name_that_debian_gives_it(
    ofatvm: Ofatvm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def found() -> str:
        checks = ofatvm("doctor", "--json").json["checks"]
        [check] = [check for check in checks if check["name"] == "llvm-mca"]
        return str(check["found"])

    monkeypatch.setenv("PATH", str(tmp_path))
    assert found() == "none"
    for name in ("llvm-mca-9", "llvm-mca-16", "llvm-mca-19"):
        (tmp_path / name).touch(mode=0o755)
    assert found() == str(tmp_path / "llvm-mca-19")


def test_a_missing_package_is_exit_5(ofatvm: Ofatvm, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    answer = ofatvm("doctor")
    assert answer.code == 5
    assert "needed and not there: torch" in answer.err


@pytest.mark.parametrize(
    ("there", "lacking", "hint"),
    [
        ({"cc", "g++"}, "ld", "apt install binutils"),
        ({"ld", "g++"}, "cc", "apt install gcc"),
        (set(), "ld, cc", "apt install binutils; apt install gcc"),
    ],
)
def test_no_linker_is_exit_5(
    ofatvm: Ofatvm, monkeypatch: pytest.MonkeyPatch, there: set[str], lacking: str, hint: str
) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name if name in there else None)
    assert ofatvm("doctor").code == 0, "ziglang links as well"
    monkeypatch.setattr(link, "zig_path", lambda: None)
    answer = ofatvm("doctor")
    assert answer.code == 5
    assert answer.err == f"error: needed and not there: {lacking} ({hint})\n"


def test_a_cpp_compiler_is_optional(ofatvm: Ofatvm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(doctor.shutil, "which", {"ld": "/bin/ld", "cc": "/bin/cc"}.get)
    answer = ofatvm("doctor", "--json")
    assert answer.code == 0
    checks = {check["name"]: check for check in answer.json["checks"]}
    assert checks["ld"]["found"] == "/bin/ld"
    assert checks["C++ compiler"]["found"] == "none"
    assert checks["C++ compiler"]["hint"] == "apt install g++"


def test_what_runs_foreign_code_is_optional(
    ofatvm: Ofatvm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OFATVM_CACHE", str(tmp_path))
    monkeypatch.delenv("QEMU_LD_PREFIX", raising=False)
    monkeypatch.setattr(qemu, "find_sysroot", lambda triple: None)
    monkeypatch.setattr(doctor.shutil, "which", {"ld": "/bin/ld", "cc": "/bin/cc"}.get)
    answer = ofatvm("doctor", "--json")
    assert answer.code == 0
    checks = {check["name"]: check for check in answer.json["checks"]}
    assert checks["qemu-arm"]["hint"] == "apt install qemu-user"
    assert checks["arm libraries"]["hint"] == "apt install libc6-armhf-cross libstdc++6-armhf-cross"
    assert checks["aarch64-linux-gnu-g++"]["hint"] == "apt install g++-aarch64-linux-gnu"
    assert checks["aarch64 TVM runtime"]["found"] == "none; verify fetches it"
    assert checks["riscv64 TVM runtime"]["found"] == "none; there are no wheels"


def test_a_version_off_the_lock_is_a_warning() -> None:
    checks = {c.name: c for c in doctor.package_checks({"numpy": "0.0.1", "torch": "2.13.0"})}
    assert checks["numpy"].status == "warning"
    assert checks["numpy"].needed == "==0.0.1 (lock)"
    assert checks["torch"].status == "ok"


@pytest.mark.parametrize(("flags", "status"), [("sse avx2 fma", "ok"), ("sse avx", "warning")])
def test_vector_instructions_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, status: str
) -> None:
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: fpu {flags}\n")
    assert doctor.features_check(cpuinfo).status == status

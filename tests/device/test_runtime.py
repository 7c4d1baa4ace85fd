"""The runtime of another machine is fetched once, checked always, and replaced when damaged."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from ofatvm.device import runtime
from ofatvm.device.runtime import NAMES, pinned, runtime_folder, tvm_runtime, why_no_runtime
from ofatvm.errors import MissingInputError
from ofatvm.events import Event
from ofatvm.road import Ir

DATA = {"libtvm_runtime.so": b"runtime", "libtvm_ffi.so": b"ffi"}


class Pip:
    """Stands in for `pip download`: writes a wheel with the library, or fails."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.data = dict(DATA)
        self.error = ""

    def __call__(self, words: Sequence[str], cwd: Path, **_: Any) -> Any:
        wanted = (cwd / "wanted.txt").read_text()
        self.calls.append(wanted)
        if self.error:
            return subprocess.CompletedProcess(words, 1, "", self.error)
        row = next(row for row in pinned("aarch64") if wanted.startswith(f"{row.package}=="))
        with zipfile.ZipFile(cwd / "some.whl", "w") as wheel:
            wheel.writestr(row.member, self.data[row.name])
        return subprocess.CompletedProcess(words, 0, "", "")


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    real: Callable[..., Any] = pinned

    def of_test(machine: str, ir: Ir = "relax") -> Any:
        rows = real(machine, ir)
        return tuple(
            replace(row, sha256=hashlib.sha256(DATA[row.name]).hexdigest()) for row in rows
        )

    pip = Pip()
    monkeypatch.setenv("OFATVM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime, "pinned", of_test)
    monkeypatch.setattr(runtime.subprocess, "run", pip)
    return pip


def test_pins_are_of_the_installed_tvm() -> None:
    rows = pinned("aarch64")
    assert {row.name for row in rows} == set(NAMES)
    assert {row.version for row in rows} == {
        metadata.version(name) for name in ("apache-tvm", "apache-tvm-ffi")
    }
    for row in rows:
        assert len(row.sha256) == len(row.wheel_sha256) == 64
    assert pinned("arm") == ()


def test_it_is_fetched_once(pip: Pip) -> None:
    events: list[Event] = []
    folder = tvm_runtime("aarch64", on_event=events.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == DATA
    assert len(pip.calls) == 2
    assert all("--hash=sha256:" in call for call in pip.calls)
    assert "fetching the TVM runtime for aarch64 (98 MB, once)" in str(events)
    assert tvm_runtime("aarch64") == folder
    assert len(pip.calls) == 2


@pytest.mark.parametrize("damage", [b"", b"other", None])
def test_a_damaged_library_is_fetched_again(pip: Pip, damage: bytes | None) -> None:
    path = tvm_runtime("aarch64") / "libtvm_ffi.so"
    path.unlink() if damage is None else path.write_bytes(damage)
    tvm_runtime("aarch64")
    assert path.read_bytes() == b"ffi"
    assert len(pip.calls) == 3


def test_without_a_network_it_is_one_line(pip: Pip) -> None:
    pip.error = "WARNING: Retrying\nERROR: Could not find a version that satisfies x\nERROR: No"
    with pytest.raises(MissingInputError) as caught:
        tvm_runtime("aarch64")
    assert caught.value.exit_code == 5
    assert "cannot fetch apache-tvm" in caught.value.message
    assert caught.value.message.endswith("Could not find a version that satisfies x")
    assert "needs a network once" in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


def test_another_library_than_the_pinned_one_is_refused(pip: Pip) -> None:
    pip.data["libtvm_runtime.so"] = b"not it"
    with pytest.raises(MissingInputError, match="does not hold the library that is pinned"):
        tvm_runtime("aarch64")
    assert not (runtime_folder("aarch64") / "libtvm_runtime.so").exists()


def test_a_cache_that_cannot_be_written_is_one_line(
    pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("OFATVM_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(MissingInputError, match="cannot keep the TVM runtime") as caught:
        tvm_runtime("aarch64")
    assert "OFATVM_CACHE" in caught.value.hint


def test_a_machine_without_wheels_takes_a_runtime_that_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFATVM_CACHE", str(tmp_path))
    assert "no wheels of TVM" in why_no_runtime("riscv64")
    with pytest.raises(MissingInputError, match="for riscv64"):
        tvm_runtime("riscv64")
    folder = runtime_folder("riscv64")
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(b"x")
    assert why_no_runtime("riscv64") == ""
    assert tvm_runtime("riscv64") == folder


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ofatvm.paths import cache_dir

    monkeypatch.delenv("OFATVM_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == tmp_path / ".cache" / "ofatvm"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/ofatvm")
    monkeypatch.setenv("OFATVM_CACHE", "/own")
    assert cache_dir() == Path("/own")

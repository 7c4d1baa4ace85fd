"""What ships for another machine is linked, checked, and run under qemu where that is there."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofatvm.bundle.verify import verify_bundle
from ofatvm.device import qemu
from ofatvm.device.qemu import find_emulator
from ofatvm.device.runtime import tvm_runtime
from ofatvm.elf import read_elf
from ofatvm.errors import BundleError, CompileError, MissingInputError
from ofatvm.events import Event, Notice
from ofatvm.pipeline import prove as prove_module
from ofatvm.pipeline.ship import ship
from ofatvm.supernet.folder import SupernetFolder
from ofatvm.target import Target
from tests.bundle.making import npy, sign
from tests.foreign import A72, ARMV7, RISCV64, foreign_setup, require_emulation

Ofatvm = Callable[..., Any]


def shipped(
    target: Target,
    supernet: SupernetFolder,
    folder: Path,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Path:
    setup = foreign_setup(target, folder / "workspace")
    arch = supernet.space.smallest(20)
    out = folder / "bundle"
    return ship(setup, arch, out, weights=None, seed=0, supernet=supernet, on_event=on_event)


@pytest.mark.parametrize(
    ("target", "machine"),
    [(A72, "aarch64"), (ARMV7, "arm"), (RISCV64, "riscv64")],
    ids=["aarch64", "armv7", "riscv64"],
)
def test_a_bundle_for_each_machine_without_an_emulator(
    target: Target,
    machine: str,
    supernet: SupernetFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(qemu, "emulator_program", lambda machine: None)
    events: list[Event] = []
    out = shipped(target, supernet, tmp_path, events.append)
    [warning] = [e for e in events if isinstance(e, Notice) and e.level == "warning"]
    assert f"the code for {target.name} was not run: this machine lacks qemu-" in warning.text
    facts = read_elf(out / "model.so")
    assert (facts.machine, facts.needed, facts.glibc) == (machine, (), None)
    text = json.loads((out / "manifest.json").read_text())
    assert text["elf"] == {"machine": machine, "needed": [], "glibc": None}
    assert text["verified"]["how"].startswith("not run: this machine lacks qemu-")
    assert text["agreement"] is None
    assert text["accuracy"]["on"].endswith(
        "by PyTorch: the compiled code did not run on all of them"
    )
    report = verify_bundle(out)
    assert not report.ran
    assert report.manifest.verified is not None
    card = (out / "README.md").read_text()
    assert f"On a Linux machine that is {machine}" in card
    assert ("There are no wheels of TVM for" in card) is (machine != "aarch64")


def test_without_a_network_it_ships_and_says_so(
    supernet: SupernetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> Any:
        raise MissingInputError("cannot fetch apache-tvm: no network")

    monkeypatch.setattr(prove_module, "why_not_emulated", lambda target, ir: "")
    monkeypatch.setattr(prove_module, "run_emulated", none)
    out = shipped(A72, supernet, tmp_path)
    verified = verify_bundle(out, run=False).manifest.verified
    assert verified is not None
    assert verified.how == "not run: cannot fetch apache-tvm: no network"


def test_a_network_that_computes_something_else_there_is_not_shipped(
    supernet: SupernetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: Path, images: np.ndarray, *_: object, classes: int, **__: object) -> Any:
        return np.ones((len(images), classes), np.float32), "qemu"

    monkeypatch.setattr(prove_module, "why_not_emulated", lambda target, ir: "")
    monkeypatch.setattr(prove_module, "run_emulated", wrong)
    with pytest.raises(CompileError, match="the compiled network is not shipped"):
        shipped(A72, supernet, tmp_path)
    assert not (tmp_path / "bundle").exists()


@pytest.fixture(scope="module")
def emulated(supernet: SupernetFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_emulation(A72)
    return shipped(A72, supernet, tmp_path_factory.mktemp("a72"))


@pytest.mark.qemu
def test_the_code_is_run_under_qemu_when_made_and_when_verified(
    emulated: Path, ofatvm: Ofatvm
) -> None:
    answer = ofatvm("verify", emulated, "--json", "-q")
    assert answer.code == 0, answer.err
    data = answer.json
    assert data["ran"] is True
    assert data["latency"] is None
    assert data["max_error"] <= 1e-4
    assert data["emulator"].startswith("qemu-aarch64 ")
    assert data["emulator"].endswith(", CPU cortex-a72")
    made = data["manifest_verified"]
    many = data["manifest_agreement"]["images"]
    assert 20 < many <= 1000, "a small network is run on many images"
    assert made["images"] == 5 + many
    assert made["max_error"] <= 1e-4
    assert made["how"] == f"by main.cc under {data['emulator']}"
    assert data["manifest_agreement"]["same_class_percent"] == 100.0
    text = ofatvm("verify", emulated)
    assert f"running the code under {data['emulator']} on " in " ".join(text.err.split())
    assert text.out.rstrip().endswith(f"verified under {data['emulator']}")


@pytest.mark.qemu
@pytest.mark.parametrize("target", [ARMV7, RISCV64], ids=["armv7", "riscv64"])
def test_machines_without_wheels_run_with_a_runtime_built_from_source(
    target: Target, supernet: SupernetFolder, tmp_path: Path
) -> None:
    require_emulation(target)
    report = verify_bundle(shipped(target, supernet, tmp_path))
    assert report.max_error is not None
    assert report.max_error <= 1e-4
    assert report.manifest.verified is not None
    assert report.manifest.verified.images == 25


@pytest.mark.qemu
def test_another_output_is_refused_under_qemu(emulated: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(emulated, tmp_path / "bundle")
    output = np.load(bundle / "sample/output.npy")
    sign(bundle, "sample/output.npy", npy(output * np.float32(1.01)))
    with pytest.raises(BundleError, match=r"model\.so does not give sample/output\.npy"):
        verify_bundle(bundle)


@pytest.mark.qemu
def test_the_c_plus_plus_runner_compiles_as_the_card_says_and_runs(
    emulated: Path, tmp_path: Path
) -> None:
    """The card's lines on a board: its Python and its g++ are played by scripts of that name."""
    if shutil.which("aarch64-linux-gnu-g++") is None:
        pytest.skip("needs g++-aarch64-linux-gnu")
    bundle = shutil.copytree(emulated, tmp_path / "bundle")
    wheels, runtime, emulator = tmp_path / "wheels", tvm_runtime("aarch64"), find_emulator(A72)
    for package, name in (("tvm", "libtvm_runtime.so"), ("tvm_ffi", "libtvm_ffi.so")):
        (wheels / package / "lib").mkdir(parents=True)
        (wheels / package / "lib" / name).symlink_to(runtime / name)
    (wheels / "tvm_ffi" / "include").symlink_to(qemu._headers("relax")[-1])
    programs = {
        "venv/bin/python": f'echo "$2" | sed "s,.*find_spec(\',{wheels}/,; s,\').*,,"',
        "bin/g++": f'exec aarch64-linux-gnu-g++ -Wl,-rpath-link,{runtime} "$@"',
    }
    for name, text in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    *lines, last = (
        (bundle / "README.md").read_text().split("```sh\n")[2].split("```")[0].splitlines()
    )
    subprocess.run(
        ["bash", "-ec", "\n".join(lines)],
        cwd=bundle,
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"},
        check=True,
    )
    done = subprocess.run(
        [*emulator.command(libraries=runtime), *last.split()],
        cwd=bundle,
        env={"TVM_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    wanted = np.load(bundle / "sample/output.npy")[0]
    printed = [line.split() for line in done.stdout.splitlines()]
    assert [int(words[0]) for words in printed] == list(np.argsort(-wanted, kind="stable")[:5])
    assert [float(w[1]) for w in printed] == pytest.approx(np.sort(wanted)[::-1][:5], abs=1e-3)

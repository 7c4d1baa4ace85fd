"""What ships was checked against PyTorch; what does not agree is not shipped."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ofatvm.bundle.verify import verify_bundle
from ofatvm.errors import (
    BundleError,
    CheckpointError,
    CompileError,
    MissingInputError,
    OfatvmError,
)
from ofatvm.events import Event, StageFinished
from ofatvm.measurement import Measurement
from ofatvm.pipeline import prove
from ofatvm.pipeline import ship as module
from ofatvm.pipeline.setup import Setup
from ofatvm.pipeline.ship import check_before, ship
from ofatvm.supernet import numpy_io
from ofatvm.supernet.checkpoint import save_weights
from ofatvm.supernet.net import Supernet
from tests.workbench import SPACE


def test_a_small_network_ships_and_verifies(bench: Setup, tmp_path: Path) -> None:
    arch = bench.space.smallest()
    measurement = Measurement(
        arch=arch.encode(),
        space=arch.space.name,
        target=bench.target.fingerprint,
        device="local",
        kind="measured",
        threads=1,
        source="profile",
        latency_ms=2.0,
        p90_ms=2.1,
        ci_low_ms=1.9,
        ci_high_ms=2.1,
        samples_ms=(1.9, 2.0, 2.1),
    )
    events: list[Event] = []
    out = ship(
        bench,
        arch,
        tmp_path / "out" / "bundle",
        weights=None,
        seed=3,
        measurement=measurement,
        accuracy_percent=70.5,
        on_event=events.append,
    )
    report = verify_bundle(out)
    assert report.ran
    assert report.max_error is not None
    assert report.max_error <= 1e-4
    manifest = report.manifest
    assert manifest.arch == arch.encode()
    assert manifest.weights.source == "untrained"
    assert "seed 3" in manifest.weights.detail
    assert manifest.latency is not None
    assert manifest.latency.value_ms == 2.0
    assert manifest.accuracy is not None
    assert manifest.accuracy.kind == "predicted"
    assert manifest.coverage == 0.0
    assert isinstance(events[-1], StageFinished)
    sample = np.load(out / "sample" / "input.npy")
    assert sample.shape == (1, 128, 128, 3)
    assert sample.std() > 0.2, "the sample is a picture, not a blank"


@pytest.mark.parametrize("device", ["local", "simulated", "rpc://127.0.0.1:9190/host"])
def test_shipped_code_is_compared_with_times_of_this_machine_alone(
    bench: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    compared: list[object] = []
    monkeypatch.setattr(module, "_compare_latency", lambda *given: compared.append(given))
    there = replace(bench, device=device)
    ship(there, bench.space.smallest(), tmp_path / "bundle", weights=None, seed=3, measurement=None)
    assert len(compared) == (device == "local")


def test_a_network_that_computes_something_else_is_not_shipped(
    bench: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded = numpy_io.folded_weights

    def wrong(*arguments: object) -> object:
        result = folded(*arguments)  # type: ignore[arg-type]
        weight, bias = result["stage3.block2.project"]
        return {**result, "stage3.block2.project": (weight * np.float32(1.5), bias)}

    monkeypatch.setattr(numpy_io, "folded_weights", wrong)
    with pytest.raises(CompileError, match="not shipped"):
        ship(bench, bench.space.smallest(), tmp_path / "bundle", weights=None, seed=0)
    assert not (tmp_path / "bundle").exists()


def test_a_network_that_a_busy_machine_did_not_finish_is_to_be_tried_again(
    bench: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prove, "RUN_TIMEOUT_S", 1e-3)
    with pytest.raises(CompileError, match=r"not shipped: model\.so took longer") as error:
        ship(bench, bench.space.smallest(), tmp_path / "bundle", weights=None, seed=0)
    assert "do it again" in error.value.hint
    assert not (tmp_path / "bundle").exists()


def test_a_weight_file_is_named_in_the_bundle(
    bench: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prove, "runs_here", lambda target: False)
    path = tmp_path / "net.safetensors"
    supernet = Supernet(SPACE, seed=1)
    supernet.origin = "trained elsewhere"
    save_weights(path, supernet)
    notices: list[Event] = []
    out = ship(
        bench,
        bench.space.smallest(),
        tmp_path / "bundle",
        weights=path,
        seed=0,
        on_event=notices.append,
    )
    manifest = verify_bundle(out, run=False).manifest
    assert manifest.weights.source == "file"
    assert "net.safetensors" in manifest.weights.detail
    assert manifest.latency is None
    assert any("was not run: this machine's CPU lacks" in str(event) for event in notices)


@pytest.mark.parametrize("where", ["file", "below a file", "proc", "full folder"])
def test_a_place_that_cannot_be_written_is_seen_beforehand(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine")
    out = {
        "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "bundle",
        "proc": Path("/proc/ofatvm/bundle"),
        "full folder": tmp_path,
    }[where]
    with pytest.raises(OfatvmError) as caught:
        check_before(out, None, SPACE)
    assert isinstance(caught.value, BundleError)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_seen_beforehand(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(BundleError, match="cannot write"):
        check_before(tmp_path / "bundle", None, SPACE)


def test_looking_beforehand_leaves_nothing_behind(tmp_path: Path) -> None:
    check_before(tmp_path / "new" / "bundle", None, SPACE)
    assert list((tmp_path / "new").iterdir()) == []


def test_weights_are_read_beforehand(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        check_before(None, tmp_path / "none.pth", SPACE)
    (tmp_path / "bad.pth").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CheckpointError):
        check_before(None, tmp_path / "bad.pth", SPACE)

"""`ofatvm compile`: from an architecture to a bundle that `ofatvm verify` accepts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ofatvm.device import timing
from ofatvm.errors import DeviceError
from ofatvm.pipeline import devices
from ofatvm.pipeline.setup import CALIBRATION, Setup
from ofatvm.supernet.folder import SupernetFolder
from tests.workbench import QUICK

Ofatvm = Callable[..., Any]


@pytest.mark.usefixtures("own_lock")
def test_compiled_measured_verified(
    ofatvm: Ofatvm, bench: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "SAMPLE", QUICK)
    arch = bench.space.smallest().encode()
    bench.library.require([*CALIBRATION, *bench.workloads([bench.space.smallest()])])
    (tmp_path / "kernels").symlink_to(bench.workspace / "kernels")
    options = ("--target", "x86-64-v2", "--threads", 1, "--workspace", tmp_path)
    answer = ofatvm("compile", "--arch", arch, *options, "--json")
    assert answer.code == 0, answer.err
    data = answer.json
    assert data["ok"] is True
    assert (data["arch"], data["target"]) == (arch, "x86-64-v2")
    assert data["weights"] == "untrained"
    assert (data["latency_kind"], data["latency_ms"] > 0) == ("measured", True)
    assert Path(data["bundle"]).is_relative_to(tmp_path / "bundles")

    verified = ofatvm("verify", data["bundle"], "--json", "-q")
    assert verified.json["ok"] is True
    assert verified.json["manifest_latency"]["value_ms"] == data["latency_ms"]
    assert verified.json["max_error"] <= 1e-4

    monkeypatch.setenv("COLUMNS", "60")
    text = ofatvm("compile", "--arch", arch, *options, "--out", tmp_path / "b", "-q")
    assert text.code == 0, text.err
    assert f"{data['latency_ms']:.4g} ms, measured, 1 thread\n" in text.out
    assert "untrained" in text.out
    assert f"ofatvm verify {tmp_path / 'b'}" in text.out
    assert (tmp_path / "b" / "manifest.json").is_file()


def test_of_a_supernet_its_accuracy_is_measured(
    ofatvm: Ofatvm,
    bench: Setup,
    supernet: SupernetFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def busy(*_: object, **__: object) -> Any:
        raise DeviceError("nothing is timed")

    monkeypatch.setattr(devices, "open_device", busy)
    small = supernet.space.smallest(20)
    bench.library.require(bench.workloads([small]))
    (tmp_path / "kernels").symlink_to(bench.workspace / "kernels")
    options = ("--target", "x86-64-v2", "--threads", 1, "--workspace", tmp_path)
    words = ("compile", "--arch", small.encode(), "--supernet", supernet.path, *options)
    answer = ofatvm(*words, "--json", "-q")
    assert answer.code == 0, answer.err
    data = answer.json
    assert data["weights"].startswith("supernet blobs, statistics recalibrated")
    assert data["accuracy"]["kind"] == "measured"
    assert data["accuracy"]["on"].startswith("60 held-out images of Blobs")
    assert data["agreement"] == {"images": 60, "same_class_percent": 100.0}
    assert 70 < data["predicted_accuracy_percent"] < 95

    text = ofatvm(*words, "-q", "--out", tmp_path / "b c")
    assert f"{data['accuracy']['top1_percent']:.2f} % top-1, measured: 60 held-out" in text.out
    assert "same class as PyTorch for 100 % of 60 images" in text.out
    assert f"python '{tmp_path}/b c/run.py' '{tmp_path}/b c/sample/image.png'" in text.out
    assert ofatvm("verify", tmp_path / "b c", "-q").code == 0

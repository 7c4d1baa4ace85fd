"""Shipping from a trained supernet: recalibrated, named, examined on every held-out image."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ofatvm.bundle.manifest import Agreement
from ofatvm.bundle.verify import verify_bundle
from ofatvm.errors import BundleError, CheckpointError, CompileError
from ofatvm.pipeline import contents, examine, prove
from ofatvm.pipeline.setup import Setup
from ofatvm.pipeline.ship import check_before, ship, shipped_facts
from ofatvm.supernet.checkpoint import load_weights
from ofatvm.supernet.fold import folded_weights
from ofatvm.supernet.folder import SupernetFolder, read_supernet
from ofatvm.supernet.numpy_io import calibrated_weights, folder_exam, subnet_weights
from tests.supernet_folder import CLASSES, LICENCE


@pytest.fixture(scope="module")
def small(bench: Setup, supernet: SupernetFolder) -> Setup:
    return replace(bench, space=supernet.space.at(20))


@pytest.fixture(scope="module")
def bundle(
    small: Setup, supernet: SupernetFolder, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("out") / "bundle"
    return ship(small, small.space.smallest(), out, weights=None, seed=0, supernet=supernet)


def top1(supernet: SupernetFolder, small: Setup) -> float:
    net = load_weights(supernet.weights, supernet.space)
    return folder_exam(supernet).top1_percent(net, small.space.smallest())


def test_the_bundle_says_what_was_measured(
    bundle: Path, small: Setup, supernet: SupernetFolder
) -> None:
    report = verify_bundle(bundle)
    assert report.ran
    manifest = report.manifest
    assert manifest.accuracy is not None
    assert manifest.accuracy.kind == "measured"
    assert manifest.accuracy.on == ("60 held-out images of Blobs shipped with the supernet blobs")
    assert manifest.accuracy.top1_percent == pytest.approx(top1(supernet, small))
    assert manifest.agreement == Agreement(images=60, same_class_percent=100.0)
    assert report.to_dict()["manifest_agreement"]["images"] == 60
    assert (manifest.preprocessing.native, manifest.preprocessing.crop) == (28, 20)
    card = (bundle / "README.md").read_text()
    assert "decode it to grey pixels" in card
    assert "resize its shorter side to 28" in card
    assert "resize that to 20 x 20 (bilinear)" in card
    assert manifest.weights.source == "file"
    assert manifest.weights.sha256 == supernet.files["weights.safetensors"]
    assert "supernet blobs" in manifest.weights.detail
    assert manifest.weights.sha256 in manifest.weights.detail
    steps = manifest.preprocessing
    assert (steps.resize, steps.crop, steps.channels) == (20, 20, "L")
    assert (steps.mean, steps.std) == (supernet.mean, supernet.std)
    assert (bundle / "labels.txt").read_text().splitlines() == list(CLASSES)
    card = (bundle / "README.md").read_text()
    assert LICENCE in card
    assert "ask its source" not in card
    assert "same class as PyTorch for 100 % of 60 images" in card
    assert shipped_facts(bundle)["weights"] == manifest.weights.detail


def test_the_statistics_that_ship_are_the_recalibrated_ones(
    bundle: Path, small: Setup, supernet: SupernetFolder
) -> None:
    arch = small.space.smallest()
    calibrated = calibrated_weights(arch, supernet)
    net = load_weights(supernet.weights, supernet.space)
    wanted = folded_weights(folder_exam(supernet).calibrated(net, arch), arch)
    for name, (weight, bias) in calibrated.folded.items():
        np.testing.assert_array_equal(weight, wanted[name][0])
        if bias is not None:
            np.testing.assert_array_equal(bias, wanted[name][1])
    sample = np.load(bundle / "sample/input.npy")
    expected = np.load(bundle / "sample/output.npy")
    np.testing.assert_allclose(calibrated.run(sample), expected, rtol=1e-5, atol=1e-6)
    plain = subnet_weights(arch, weights=supernet.weights, seed=0)
    assert np.abs(plain.run(sample) - expected).max() > 1e-2


def test_run_py_names_the_class_of_the_sample(bundle: Path) -> None:
    words = [sys.executable, "-I", bundle / "run.py", bundle / "sample/image.png", "--top", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    output = np.load(bundle / "sample/output.npy")[0]
    assert done.stdout.split("  ")[-1].strip() == CLASSES[int(output.argmax())]


def test_the_sample_is_one_that_is_named_right(
    bundle: Path, small: Setup, supernet: SupernetFolder
) -> None:
    png = (bundle / "sample/image.png").read_bytes()
    [name] = [name for path, name in supernet.samples() if path.read_bytes() == png]
    named = {CLASSES[int(np.load(bundle / "sample/output.npy").argmax())]}
    subnet = calibrated_weights(small.space.smallest(), supernet)
    steps = contents.folder_preprocessing(small.space.smallest(), supernet)
    others = [
        name == CLASSES[int(subnet.run(contents.picture_input(path, steps)).argmax())]
        for path, name in supernet.samples()
    ]
    assert any(others), "the fixture has a picture that is named right"
    assert name in named


@pytest.mark.parametrize("size", [20, 24, 28])
def test_pictures_reach_the_network_as_they_did_in_training(
    supernet: SupernetFolder, size: int
) -> None:
    from PIL import Image

    from ofatvm.data import resized

    steps = contents.folder_preprocessing(supernet.space.smallest(size), supernet)
    for path, _ in supernet.samples():
        with Image.open(path) as opened:
            pixels = np.asarray(opened)[None, :, :, None]
        trained = contents.normalised(resized(pixels, size), steps)
        grey_levels = 255 * supernet.std[0] * (contents.picture_input(path, steps) - trained)
        assert np.abs(grey_levels).max() < 1.01
        if size == 28:
            assert np.abs(grey_levels).max() < 1e-3


def test_code_that_names_other_classes_is_not_shipped(
    small: Setup, supernet: SupernetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_images(*arguments: object, **options: object) -> np.ndarray:
        outputs = real(*arguments, **options)  # type: ignore[arg-type]
        for image in (7, 8):
            outputs[image, outputs[image].argmax()] -= 100
        return outputs

    real = examine.run_images
    monkeypatch.setattr(examine, "run_images", run_images)
    with pytest.raises(CompileError, match=r"for 58 of 60 held-out images, at least 99.9 %"):
        ship(
            small,
            small.space.smallest(),
            tmp_path / "bundle",
            weights=None,
            seed=0,
            supernet=supernet,
        )
    assert not (tmp_path / "bundle").exists()


def test_many_images_are_examined_part_by_part(
    bundle: Path, small: Setup, supernet: SupernetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = contents.supernet_contents(small.space.smallest(), supernet)
    monkeypatch.setattr(examine, "BATCH_VALUES", 25 * 400)
    found = examine.examine(filled, supernet, bundle / "model.so", 1)
    assert found.agreement == Agreement(images=60, same_class_percent=100.0)
    assert found.accuracy.top1_percent == pytest.approx(top1(supernet, small))


def test_code_for_another_machine_has_no_agreement(
    small: Setup, supernet: SupernetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prove, "runs_here", lambda target: False)
    out = ship(
        small,
        small.space.smallest(),
        tmp_path / "bundle",
        weights=None,
        seed=0,
        supernet=supernet,
    )
    manifest = verify_bundle(out, run=False).manifest
    assert manifest.agreement is None
    assert manifest.accuracy is not None
    assert manifest.accuracy.kind == "measured"
    assert manifest.accuracy.on.endswith("by PyTorch: the compiled code did not run on all of them")
    assert manifest.accuracy.top1_percent == pytest.approx(top1(supernet, small))


@pytest.fixture
def copy(supernet: SupernetFolder, tmp_path: Path) -> Path:
    return shutil.copytree(supernet.path, tmp_path / "copy")


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "calibration.npz", "evaluation.npz", "samples/03-0.png"]
)
def test_a_file_that_was_changed_is_refused_beforehand(copy: Path, name: str) -> None:
    folder = read_supernet(copy)
    check_before(None, None, folder.space, folder)
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(CheckpointError, match="does not have the digest"):
        check_before(None, None, folder.space, folder)


def test_a_class_of_two_lines_is_refused_beforehand(copy: Path) -> None:
    folder = read_supernet(copy)
    folder = replace(folder, classes=(*folder.classes[:3], "two\nlines", *folder.classes[4:]))
    with pytest.raises(BundleError, match="one line"):
        check_before(None, None, folder.space, folder)


def test_a_supernet_without_samples_ships_an_input_alone(
    small: Setup, supernet: SupernetFolder
) -> None:
    bare = replace(
        supernet, files={k: v for k, v in supernet.files.items() if not k.startswith("samples")}
    )
    filled = contents.supernet_contents(small.space.smallest(), bare)
    assert filled.png is None
    assert filled.sample.shape == (1, 20, 20, 1)

"""The runners in a bundle need nothing of ofatvm, and answer bad input with one line."""

from __future__ import annotations

import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from ofatvm.bundle.verify import verify_bundle
from ofatvm.errors import MeasurementError
from tests.bundle.making import (
    CLASSES,
    SIZE,
    Tiny,
    compile_tiny,
    make_bundle,
    make_manifest,
    png,
    sign,
)
from tests.test_text import NAMES


@pytest.fixture(scope="module")
def bundle(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tiny, tmp_path_factory.mktemp("run") / "bundle")


def run(bundle: Path, *words: object, block: str = "", **variables: str) -> Any:
    """`python run.py WORDS` from another folder; `block` names modules that cannot be imported."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({block.split()!r})); "
    script = str(bundle / "run.py")
    code = f"{blocked}import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], "
    code += "run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-I", "-c", code, script, *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | variables,
        timeout=120,
        check=False,
    )


def pixels(image: Image.Image) -> np.ndarray:
    """Resize the whole image, then crop: the plain way."""
    wide, high = (int(147 * side / min(image.size) + 1e-6) for side in image.size)
    left, top = round((wide - SIZE) / 2), round((high - SIZE) / 2)
    resized = image.convert("RGB").resize((wide, high), Image.Resampling.BILINEAR)
    values = np.asarray(resized, np.float32)[top : top + SIZE, left : left + SIZE] / 255
    return (values - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])


def test_it_names_the_classes_without_torch_or_ofatvm(bundle: Path, tiny: Tiny) -> None:
    done = run(bundle, bundle / "sample/image.png", "--top", 3, block="torch ofatvm xgboost")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "warning: the weights are UNTRAINED, so these classes mean nothing\n"
    rows = [re.fullmatch(r" +(\d) +(0\.\d{4})  label (\d+)", x) for x in done.stdout.splitlines()]
    assert [row.group(1) for row in rows if row] == ["1", "2", "3"]
    weight = np.random.default_rng(0).standard_normal((3, CLASSES)).astype(np.float32)
    with Image.open(bundle / "sample/image.png") as image:
        logits = pixels(image).mean((0, 1)) @ weight
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    best = np.argsort(-chances)[:3]
    assert [int(row.group(3)) for row in rows if row] == list(best)
    assert [float(row.group(2)) for row in rows if row] == pytest.approx(chances[best], abs=2e-4)


def test_classes_have_names_of_any_script(tiny: Tiny, tmp_path: Path) -> None:
    labels = [f"{NAMES[index % len(NAMES)]} {index}" for index in range(CLASSES)]
    out = make_bundle(tiny, tmp_path / "b", labels=labels)
    done = run(out, out / "sample/image.png", "--top", CLASSES)
    assert done.returncode == 0, done.stderr
    said = [re.sub(r"^ *\d+ +\d\.\d{4}  ", "", line) for line in done.stdout.split("\n")[:-1]]
    assert sorted(said) == sorted(labels)


def test_trained_weights_and_no_labels(tiny: Tiny, tmp_path: Path) -> None:
    from ofatvm.bundle.manifest import Weights

    manifest = make_manifest(weights=Weights(source="file", detail="x.pth", sha256="0" * 64))
    out = make_bundle(tiny, tmp_path / "b", manifest=manifest, labels=None)
    done = run(out, out / "sample/image.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 5
    assert "  class " in done.stdout
    assert "untrained" not in (out / "README.md").read_text()


@pytest.mark.parametrize("size", [(128, 128), (147, 147), (200, 150), (97, 331), (640, 480)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_images_become_what_a_resize_and_a_crop_make_of_them(
    bundle: Path, tmp_path: Path, size: tuple[int, int], mode: str
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(noise).convert(mode).save(path)
    load = runpy.run_path(str(bundle / "run.py"))["load_image"]
    steps = {
        "resize": 147,
        "crop": SIZE,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "channels": "RGB",
        "interpolation": "bilinear",
    }
    made = load(path, steps, np, Image)
    assert made.shape == (1, SIZE, SIZE, 3)
    assert made.dtype == np.float32
    with Image.open(path) as image:
        assert np.abs(made[0] - pixels(image)).max() < 1e-5


def test_sixteen_bit_greys_keep_their_upper_eight(bundle: Path, tmp_path: Path) -> None:
    ramp = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    load = runpy.run_path(str(bundle / "run.py"))["load_image"]
    steps = {"resize": 16, "crop": 16, "mean": [0.0], "std": [1.0], "channels": "L"}
    made = load(tmp_path / "x.png", {**steps, "interpolation": "bilinear"}, np, Image)
    np.testing.assert_allclose(made[0, ..., 0] * 255, ramp >> 8, atol=1e-3)


def test_an_absurdly_long_image_takes_no_absurd_memory(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "long.png").write_bytes(png((60_000, 1)))
    done = run(bundle, tmp_path / "long.png")
    assert done.returncode == 0, done.stderr


def bomb() -> bytes:
    buffer = BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


def numbers(mode: str) -> bytes:
    buffer = BytesIO()
    Image.new(mode, (20, 20)).save(buffer, "TIFF")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("none.png", None, "none.png: No such file or directory\n"),
        ("text.png", b"hello", "is not an image that Pillow reads"),
        ("empty.png", b"", "is not an image that Pillow reads"),
        ("program.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        ("float.tiff", numbers("F"), "32-bit numbers"),
        ("int.tiff", numbers("I"), "32-bit numbers"),
        ("cut.png", png((300, 300))[:120], "error: cannot read the image"),
        ("bomb.png", bomb(), "exceeds limit"),
    ],
)
def test_a_bad_image_is_one_line(
    bundle: Path, tmp_path: Path, name: str, data: bytes | None, message: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    done = run(bundle, tmp_path / name)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_is_no_file_is_no_image(bundle: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, Path("/dev/zero")):
        done = run(bundle, path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: {path} is no file\n"


@pytest.mark.parametrize(
    ("block", "way_out"),
    [
        ("PIL", "pip install numpy pillow"),
        ("numpy", "pip install"),
        ("tvm", "apache-tvm==0.27"),
        ("tvm_ffi", "apache-tvm-ffi=="),
    ],
)
def test_a_missing_module_is_one_line(bundle: Path, block: str, way_out: str) -> None:
    done = run(bundle, bundle / "sample/image.png", block=block)
    assert (done.returncode, done.stdout) == (5, "")
    assert way_out in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_model_that_does_not_load_is_one_line(
    bundle: Path, tmp_path: Path, content: bytes | None
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    if content is None:  # a library, but not of a network
        source = tmp_path / "x.c"
        source.write_text("int nothing;")
        subprocess.run(["gcc", "-shared", "-o", copy / "model.so", source], check=True)
    else:
        (copy / "model.so").write_bytes(content)
    digest = hashlib.sha256((copy / "model.so").read_bytes()).hexdigest()
    sign(copy, files={"model.so": {"sha256": digest}})
    done = run(copy, copy / "sample/image.png")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot load model.so" in done.stderr
    assert "apache-tvm==" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_many_calls_give_the_same_and_take_no_more_memory(bundle: Path, tiny: Tiny) -> None:
    script = runpy.run_path(str(bundle / "run.py"))
    network = script["Runtime"]().network(bundle / "model.so")
    process = psutil.Process()
    for _ in range(50):
        first = network(tiny.given)
    before = process.memory_info().rss
    for _ in range(2000):
        assert np.array_equal(network(tiny.given), first)
    # One leaked input each would be 400 MB.
    assert process.memory_info().rss - before < 20_000_000
    assert np.abs(first - tiny.result).max() < 1e-5
    with pytest.raises(RuntimeError, match="expect Tensor with ndim 4 but get 2"):
        network(np.zeros((1, 5), np.float32))
    assert np.array_equal(network(tiny.given[:, ::1]), first)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"machine": "aarch64"}, "is compiled for aarch64, this machine is"),
        ({"cpu_features": ["avx9999f"]}, "this machine lacks: avx9999f"),
        ({"files": {}}, "incomplete or damaged"),
        ({"files": {"model.so": {"sha256": "0"}}}, "not the file that manifest.json describes"),
    ],
)
def test_a_bundle_that_cannot_run_here_is_one_line(
    bundle: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    sign(copy, **fields)
    done = run(copy, copy / "sample/image.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_outputs_that_are_no_numbers_name_no_class(tmp_path: Path) -> None:
    broken = compile_tiny(tmp_path, scale=float("nan"))
    bundle = make_bundle(broken, tmp_path / "bundle", sample_output=np.ones((1, CLASSES), "<f4"))
    done = run(bundle, bundle / "sample/image.png")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: the network's output is not finite, so that it names no class\n"
    with pytest.raises(
        MeasurementError, match=r"output of model.so is not finite for 1 of 1 inputs"
    ):
        verify_bundle(bundle)


@pytest.mark.parametrize("text", ["", "[]", "null", "3", "[" * 100_000])
def test_a_manifest_that_is_none_is_one_line(bundle: Path, tmp_path: Path, text: str) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / "manifest.json").write_text(text)
    done = run(copy, copy / "sample/image.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: this bundle is incomplete or damaged: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("odd", [None, 3, -1, "x", [], [None], [0.0], {}])
def test_odd_fields_of_a_manifest_are_named_and_never_used(bundle: Path, odd: Any) -> None:
    script = runpy.run_path(str(bundle / "run.py"))
    good = json.loads((bundle / "manifest.json").read_text())
    script["check_fields"](good)
    usable = [("target", "threads", 3), ("weights", "source", "x")]
    usable += [("preprocessing", key, 3) for key in ("resize", "crop")]
    for outer, key in (
        *(("preprocessing", key) for key in good["preprocessing"]),
        *(("target", "threads"), ("target", "options"), ("weights", "source")),
        ("files", "model.so"),
    ):
        changed = {**good, outer: {**good[outer], key: odd}}
        if (outer, key, odd) in usable or (key == "native" and odd in (None, 3, [], {})):
            script["check_fields"](changed)
            continue
        with pytest.raises((ValueError, TypeError, KeyError)):
            script["check_fields"](changed)


def test_a_network_that_does_not_run_is_one_line(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    steps = json.loads((copy / "manifest.json").read_text())["preprocessing"]
    sign(copy, preprocessing=steps | {"crop": 100})
    done = run(copy, copy / "sample/image.png")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the network does not run: ")
    assert len(done.stderr.splitlines()) == 1


def test_classes_that_cannot_be_written_are_one_line_or_none(bundle: Path) -> None:
    words = [sys.executable, bundle / "run.py", bundle / "sample/image.png"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == "error: cannot write the classes: No space left on device"
    )
    assert "Traceback" not in done.stderr
    here, there = os.pipe()
    os.close(here)
    done = subprocess.run(words, stdout=there, stderr=subprocess.PIPE, text=True, check=False)
    os.close(there)
    assert done.returncode == 1
    assert done.stderr == "warning: the weights are UNTRAINED, so these classes mean nothing\n"


def test_bad_options_are_usage_errors(bundle: Path) -> None:
    assert run(bundle).returncode == 2
    assert run(bundle, bundle / "sample/image.png", "--top", 0).returncode == 2


@pytest.mark.slow
def test_the_c_plus_plus_runner_compiles_as_the_card_says(
    bundle: Path, tiny: Tiny, tmp_path: Path
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    lines = (copy / "README.md").read_text().split("```sh\n")[2].split("```")[0]
    (tmp_path / "venv").symlink_to(sys.prefix)
    done = subprocess.run(
        ["bash", "-ec", lines],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = [line.split() for line in done.stdout.splitlines()]
    best = np.argsort(-tiny.result[0])[:5]
    assert [int(words[0]) for words in printed] == list(best)

    def classify(*words: object) -> Any:
        return subprocess.run(
            [tmp_path / "classify", *map(str, words)], capture_output=True, text=True, check=False
        )

    whole = classify(copy / "model.so", copy / "sample/input.npy", 0)
    values = [float(line.split()[1]) for line in whole.stdout.splitlines()]
    assert values == pytest.approx(tiny.result[0], abs=1e-4)
    (tmp_path / "raw").write_bytes(tiny.given.tobytes())
    assert classify(copy / "model.so", tmp_path / "raw", 0).stdout == whole.stdout
    (tmp_path / "double.npy").write_bytes(b"")
    np.save(tmp_path / "double.npy", tiny.given.astype(np.float64))
    np.save(tmp_path / "nan.npy", tiny.given * np.float32("nan"))
    for words, message in (
        ((copy / "model.so", copy / "run.py"), "bytes of numbers, the network takes"),
        ((copy / "model.so", tmp_path / "double.npy"), "not a float32 array"),
        ((copy / "none.so", copy / "sample/input.npy"), "none.so"),
        ((copy / "model.so", tmp_path / "nan.npy"), "output is not finite"),
        ((copy / "model.so", copy / "sample/input.npy", "x"), "TOP must be a whole number"),
        ((copy / "model.so", copy / "none"), "cannot open"),
    ):
        done = classify(*words)
        assert done.returncode == 1
        assert message in done.stderr

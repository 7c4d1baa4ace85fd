"""Classify an image with the compiled network beside this file.

    python run.py IMAGE [--top 5]

Needs Python >= 3.9, numpy, Pillow and the TVM runtime (pip install numpy pillow apache-tvm==VERSION
apache-tvm-ffi==VERSION, with the versions that manifest.json names).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Read the command line, run the network, print the most likely classes."""
    parser = argparse.ArgumentParser(description="Classify an image with the network in model.so.")
    parser.add_argument("image", type=Path, help="any image file that Pillow reads")
    parser.add_argument("--top", type=int, default=5, help="how many classes to print (default 5)")
    options = parser.parse_args()
    if options.top < 1:
        fail(f"--top must be at least 1, got {options.top}", 2)
    manifest = read_manifest()
    check_machine(manifest)
    try:
        import numpy as np
        from PIL import Image
    except ImportError as error:
        fail(f"{error} (pip install numpy pillow)", 5)
    pixels = load_image(options.image, manifest["preprocessing"], np, Image)
    network = load_network(manifest)
    logits = network(pixels)[0].astype(np.float64)
    powers = np.exp(logits - logits.max())
    chances = powers / powers.sum()
    labels = read_labels(manifest, len(chances))
    if manifest["weights"]["source"] == "untrained":
        print("warning: the weights are UNTRAINED, so these classes mean nothing", file=sys.stderr)
    for place, index in enumerate(np.argsort(-chances, kind="stable")[: options.top], start=1):
        print(f"{place:3d}  {chances[index]:7.4f}  {labels[index]}")


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong in one line, and end."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def read_manifest() -> dict[str, Any]:
    """The bundle's manifest, once model.so has the digest that stands in it."""
    try:
        manifest: dict[str, Any] = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        model = (HERE / "model.so").read_bytes()
        digest = manifest["files"]["model.so"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"this bundle is incomplete or damaged: {error}", 2)
    if hashlib.sha256(model).hexdigest() != digest:
        fail("model.so is not the file that manifest.json describes", 2)
    return manifest


def check_machine(manifest: dict[str, Any]) -> None:
    """Refuse code that this machine's CPU cannot execute."""
    machine = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
    built = manifest["machine"]
    if machine != built and not (built == "arm" and machine.startswith("armv")):
        fail(f"this network is compiled for {built}, this machine is {machine}", 2)
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return
    lacking = sorted(set(manifest["cpu_features"]) - set(words))
    if lacking:
        fail(f"this network needs CPU features that this machine lacks: {' '.join(lacking)}", 2)


def load_image(path: Path, steps: dict[str, Any], np: Any, image_module: Any) -> Any:
    """The image as the network's input: shorter side resized, centre cropped, normalised, NHWC."""
    from PIL import ImageOps, UnidentifiedImageError

    warnings.simplefilter("error", image_module.DecompressionBombWarning)
    try:
        with image_module.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert(steps["channels"])
    except UnidentifiedImageError:
        fail(f"{path} is not an image that Pillow reads", 2)
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        image_module.DecompressionBombWarning,
        image_module.DecompressionBombError,
    ) as error:
        fail(f"cannot read the image {path}: {error}", 2)
    # Only the centre is used: of an absurdly long image, the rest goes before it takes memory.
    longest = 8 * min(image.size)
    width, height = (min(side, longest) for side in image.size)
    image = centre(image, width, height)
    scale = steps["resize"] / min(width, height)
    size = (int(width * scale + 1e-6), int(height * scale + 1e-6))
    crop = steps["crop"]
    method = getattr(image_module.Resampling, steps["interpolation"].upper())
    image = centre(image.resize(size, method), crop, crop)
    values = np.asarray(image, dtype=np.float32) / 255
    values = values.reshape(1, crop, crop, len(steps["mean"]))
    mean, std = (np.array(steps[key], dtype=np.float32) for key in ("mean", "std"))
    return ((values - mean) / std).astype(np.float32)


def centre(image: Any, width: int, height: int) -> Any:
    """The central part of an image."""
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def load_network(manifest: dict[str, Any]) -> Any:
    """A function from the input array to the output array."""
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = min(manifest["target"]["threads"], cores or 1)
    os.environ.setdefault("TVM_NUM_THREADS", str(threads))
    # tvm_ffi loads torch wherever it is installed, which takes seconds and is not needed.
    sys.modules["torch"] = None  # type: ignore[assignment]
    needed = " ".join(
        f"{name}=={manifest['versions'][name]}"
        for name in ("apache-tvm", "apache-tvm-ffi")
        if name in manifest["versions"]
    )
    try:
        import tvm
        from tvm.runtime.vm import VirtualMachine
    except (ImportError, OSError) as error:
        fail(f"no TVM runtime: {error} (pip install {needed})", 5)
    try:
        run = VirtualMachine(tvm.runtime.load_module(str(HERE / "model.so")), tvm.cpu())["main"]
    except (RuntimeError, ValueError, AttributeError, OSError) as error:
        fail(f"cannot load model.so: {error} (it was compiled with {needed})", 1)
    return lambda pixels: run(tvm.runtime.tensor(pixels)).numpy()


def read_labels(manifest: dict[str, Any], count: int) -> list[str]:
    """The names of the classes, or their numbers where the bundle has none."""
    if not manifest["labels"]:
        return [f"class {index}" for index in range(count)]
    try:
        labels = (HERE / manifest["labels"]).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        fail(f"cannot read the labels: {error}", 2)
    if len(labels) != count:
        fail(f"labels.txt has {len(labels)} lines for {count} classes", 2)
    return labels


if __name__ == "__main__":
    main()

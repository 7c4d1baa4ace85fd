"""What goes into a bundle beside its code: a subnet's weights, its classes, and a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ofatvm.arch import Arch
from ofatvm.bundle.manifest import Preprocessing, Weights
from ofatvm.bundle.picture import normalised, picture_input
from ofatvm.data import eval_batches
from ofatvm.errors import shorten
from ofatvm.paths import data_dir
from ofatvm.supernet import MEAN, STD
from ofatvm.supernet.folder import WEIGHTS as WEIGHTS_NAME
from ofatvm.supernet.folder import SupernetFolder

if TYPE_CHECKING:
    from ofatvm.supernet.numpy_io import SubnetWeights

RESIZE_RATIO = 256 / 224
DETAIL_LENGTH = 200


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """One architecture's weights with what says how to use them.

    `sample` is the network's input for the picture `png`, (1, height, width, channels) float32.
    """

    subnet: SubnetWeights
    weights: Weights
    preprocessing: Preprocessing
    sample: np.ndarray
    png: bytes | None
    labels: tuple[str, ...] | None = None
    licence: str = ""


def file_contents(arch: Arch, weights: Path | None, seed: int) -> Contents:
    """From a weight file, or from a seed; statistics are as the file has them."""
    from ofatvm.supernet.numpy_io import subnet_weights

    subnet = subnet_weights(arch, weights=weights, seed=seed)
    if weights is None:
        described = Weights(source="untrained", detail=f"initialised from seed {seed}")
    else:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        described = _weights(subnet.origin, subnet.origin, digest)
    grey = arch.space.in_channels == 1
    preprocessing = Preprocessing(
        resize=round(arch.resolution * RESIZE_RATIO),
        crop=arch.resolution,
        mean=(sum(MEAN) / len(MEAN),) if grey else MEAN,
        std=(sum(STD) / len(STD),) if grey else STD,
        channels="L" if grey else "RGB",
    )
    picture = data_dir("models") / "sample.jpg"
    sample = picture_input(picture, preprocessing)
    return Contents(subnet, described, preprocessing, sample, _as_png(picture))


def supernet_contents(arch: Arch, folder: SupernetFolder) -> Contents:
    """From a trained supernet, statistics recalibrated; the sample is one of its pictures.

    It is the first that the subnet takes for what it is, if there is one.
    """
    from ofatvm.supernet.numpy_io import calibrated_weights

    subnet = calibrated_weights(arch, folder)
    preprocessing = folder_preprocessing(arch, folder)
    sample, png = _sample(subnet, folder, preprocessing)
    digest = folder.files[WEIGHTS_NAME]
    name = shorten(folder.name)
    detail = f"supernet {name}, statistics recalibrated (weights sha256 {digest})"
    return Contents(
        subnet,
        _weights(subnet.origin, detail, digest),
        preprocessing,
        sample,
        png,
        labels=folder.classes,
        licence=str(folder.data.get("licence") or ""),
    )


def folder_preprocessing(arch: Arch, folder: SupernetFolder) -> Preprocessing:
    """How pictures become inputs: as in training, without a margin to crop."""
    return Preprocessing(
        resize=arch.resolution,
        crop=arch.resolution,
        mean=folder.mean,
        std=folder.std,
        native=folder.evaluation().native,
        channels="L" if arch.space.in_channels == 1 else "RGB",
    )


def held_out(
    folder: SupernetFolder, preprocessing: Preprocessing, batch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The folder's evaluation images as inputs (n, height, width, channels), and their labels."""
    for images, labels in eval_batches(folder.evaluation(), batch=batch, size=preprocessing.crop):
        yield normalised(images, preprocessing), labels


def _sample(
    subnet: SubnetWeights, folder: SupernetFolder, preprocessing: Preprocessing
) -> tuple[np.ndarray, bytes | None]:
    samples = folder.samples()
    if not samples:
        images, _ = next(held_out(folder, preprocessing, 1))
        return images, None
    inputs = [picture_input(path, preprocessing) for path, _ in samples]
    named = subnet.run(np.concatenate(inputs)).argmax(axis=1)
    right = [folder.classes[n] == name for n, (_, name) in zip(named, samples, strict=True)]
    chosen = right.index(True) if any(right) else 0
    return inputs[chosen], samples[chosen][0].read_bytes()


def _weights(origin: str, detail: str, digest: str) -> Weights:
    """Untrained weights stay so in a file; else the file's digest is named."""
    if origin.startswith("untrained"):
        return Weights(source="untrained", detail=detail[:DETAIL_LENGTH])
    return Weights(source="file", detail=detail[:DETAIL_LENGTH], sha256=digest)


def _as_png(picture: Path) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    with Image.open(picture) as opened:
        opened.convert("RGB").save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()

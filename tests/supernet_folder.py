"""A supernet folder such as `ofatvm train` leaves, only that nothing was trained."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ofatvm.arch import ArchSpace
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.predict.features import SpaceTables
from ofatvm.supernet.checkpoint import save_weights
from ofatvm.supernet.folder import SupernetFolder, packed_images, write_supernet
from ofatvm.supernet.net import Supernet

CLASSES = tuple(f"thing {name}" for name in "abcdefghij")
LICENCE = "MIT licence, Copyright 2017 Nobody"


def make_supernet(path: Path, space: ArchSpace, *, images: int = 60, side: int = 28) -> Path:
    """Write the folder. Its network tells blobs apart, and its labels are drawn at random."""
    rng = np.random.default_rng(5)
    channels = space.in_channels
    pixels = blobs(rng, 2 * images, side, channels)
    labels = rng.integers(0, space.classes, images)
    supernet = Supernet(space, seed=2)
    supernet.origin = "trained in a test"
    path.mkdir(parents=True, exist_ok=True)
    save_weights(path / "weights.safetensors", supernet)
    model = path / "accuracy.json"
    accuracy_model(space).save(model, {"source": "made up"})
    samples = {}
    for label in range(space.classes):
        picture = pixels[label]
        buffer = io.BytesIO()
        Image.fromarray(picture[:, :, 0] if channels == 1 else picture).save(buffer, "PNG")
        samples[f"samples/{label:02d}-0.png"] = buffer.getvalue()
    folder = SupernetFolder(
        path=path,
        name="blobs",
        space=space,
        classes=CLASSES[: space.classes],
        mean=(0.3,) * channels,
        std=(0.25,) * channels,
        data={"name": "Blobs", "licence": LICENCE},
        training={},
        figures={},
    )
    write_supernet(
        folder,
        {
            "weights.safetensors": (path / "weights.safetensors").read_bytes(),
            "accuracy.json": model.read_bytes(),
            "calibration.npz": packed_images(pixels[images:], np.zeros(images, np.int64)),
            "evaluation.npz": packed_images(pixels[:images], labels),
            **samples,
        },
    )
    return path


def blobs(rng: np.random.Generator, count: int, side: int, channels: int) -> np.ndarray:
    """Smooth random pictures (count, side, side, channels) uint8 of differing brightness."""
    coarse = rng.uniform(0, 1, (count, 7, 7, channels)) * rng.uniform(0.3, 1, (count, 1, 1, 1))
    fine = np.repeat(np.repeat(coarse, -(-side // 7), axis=1), -(-side // 7), axis=2)
    return (255 * fine[:, :side, :side]).astype(np.uint8)


def accuracy_model(space: ArchSpace) -> AccuracyModel:
    """More MACs, more accuracy, from 80 to 90 %."""
    rng = np.random.default_rng(1)
    rows = space.sample_rows(rng, 60)
    macs = np.log(SpaceTables.build(space, *space.resolutions).macs(rows))
    top1 = 80 + 10 * (macs - macs.min()) / np.ptp(macs)
    return AccuracyModel.fit(rows, top1, np.ones(len(rows), bool), space)

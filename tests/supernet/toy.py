"""A space and pictures so small that a network learns them in seconds."""

from __future__ import annotations

import numpy as np

from ofatvm.arch import ArchSpace, StageSpec
from ofatvm.data import ArrayImages, Dataset
from ofatvm.supernet.recipe import RECIPES, RunConfig

TOY = ArchSpace(
    name="toy",
    code="toy",
    stem_width=8,
    first_width=8,
    stages=(StageSpec(8, 2, "relu", True), StageSpec(16, 2, "h_swish", False)),
    head_width=16,
    feature_width=16,
    classes=3,
    resolutions=(10, 12),
    stem_stride=1,
    in_channels=1,
    kernels=(3, 5),
    expands=(2, 3),
    depths=(1, 2),
)


def bars(count: int, seed: int) -> ArrayImages:
    """Noisy 12x12 pictures of a horizontal bar, a vertical bar, or neither."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    pixels = rng.integers(0, 90, (count, 12, 12, 1))
    for picture, label in zip(pixels, labels, strict=True):
        place = rng.integers(2, 9)
        if label == 0:
            picture[place : place + 2, 1:11] += 150
        elif label == 1:
            picture[1:11, place : place + 2] += 150
    return ArrayImages(pixels.astype(np.uint8), labels.astype(np.int64))


def toy_dataset(count: int = 96) -> Dataset:
    return Dataset(
        name="bars",
        train=bars(count, 1),
        val=bars(120, 2),
        test=None,
        classes=("lying", "standing", "none"),
        channels=1,
        mean=(0.25,),
        std=(0.2,),
        digest="d" * 64,
    )


def toy_config(
    recipe: str = "sandwich", epochs: int = 2, rate: float = 0.1, **changes: object
) -> RunConfig:
    settings: dict[str, object] = {"batch": 16, "flip": False, "shift": 1, **changes}
    return RunConfig(recipe=recipe, phases=RECIPES[recipe](TOY, epochs, rate), **settings)  # type: ignore[arg-type]

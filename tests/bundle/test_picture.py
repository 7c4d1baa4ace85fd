"""What run.py makes of a picture is, to the bit, what evaluation makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ofatvm.bundle.manifest import Preprocessing
from ofatvm.bundle.picture import picture_input
from ofatvm.data import eval_batches
from ofatvm.data.dataset import ArrayImages, Images
from ofatvm.data.folder import FolderImages
from ofatvm.supernet.images import Normaliser

SIZES = [(1, 1), (7, 3), (28, 28), (31, 28), (97, 331), (640, 479), (1201, 803), (3000, 1)]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Smooth noise of odd sizes: plain, upright by EXIF only, transparent, and in other modes."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(3)
    paths = []
    for number, size in enumerate(SIZES):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 4), np.uint8), "RGBA")
        photo = coarse.resize(size, Image.Resampling.BICUBIC)
        paths += [folder / f"{number}.jpg", folder / f"{number}.png"]
        exif = Image.Exif()
        exif[0x0112] = 6
        photo.convert("RGB").save(paths[-2], quality=95, exif=exif)
        photo.save(paths[-1])
    deep = rng.integers(0, 65536, (77, 59), np.uint16)
    paths.append(folder / "deep.png")
    Image.fromarray(deep).save(paths[-1])
    for mode in ("P", "LA", "1", "CMYK"):
        paths.append(folder / f"{mode}.tiff")
        photo.resize((83, 45)).convert("RGB").convert(mode).save(paths[-1])
    paths.append(folder / "hole.png")
    photo.resize((45, 83)).convert("RGB").quantize(16).save(paths[-1], transparency=bytes([0, 90]))
    return tuple(paths)


def evaluated(images: Images, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> list:
    """The inputs (height, width, channels) that evaluation gives a network."""
    normalise = Normaliser(mean, std)
    batches = (normalise(batch) for batch, _ in eval_batches(images, batch=5, size=size))
    return [each for batch in batches for each in batch.permute(0, 2, 3, 1).numpy()]


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("native", "size"), [(28, 20), (28, 28), (28, 33), (96, 64), (96, 96)])
def test_run_py_gives_the_very_input_of_evaluation(
    photos: tuple[Path, ...], channels: int, native: int, size: int
) -> None:
    mean, std = MEAN[:channels], STD[:channels]
    steps = Preprocessing(
        resize=size,
        crop=size,
        mean=mean,
        std=std,
        channels="L" if channels == 1 else "RGB",
        native=native,
    )
    lazy = FolderImages(photos, np.zeros(len(photos), np.int64), channels, native)
    inputs = [picture_input(path, steps)[0] for path in photos]
    for images in (lazy, lazy.loaded()):
        for path, wanted, made in zip(
            photos, evaluated(images, size, mean, std), inputs, strict=True
        ):
            assert made.dtype == wanted.dtype == np.float32
            assert np.array_equal(made, wanted), path.name


@pytest.mark.parametrize("shape", [(28, 41), (50, 30), (120, 97)])
def test_arrays_that_are_not_square_are_evaluated_as_run_py_does(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (3, *shape, 3), np.uint8)
    native = min(shape)
    steps = Preprocessing(resize=20, crop=20, mean=MEAN, std=STD, native=native)
    wanted = evaluated(ArrayImages(pixels, np.zeros(3, np.int64)), 20, MEAN, STD)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        made = picture_input(tmp_path / f"{number}.png", steps)[0]
        assert np.array_equal(made, wanted[number])


def test_without_a_native_size_a_picture_is_scaled_once(photos: tuple[Path, ...]) -> None:
    once = Preprocessing(resize=20, crop=20, mean=MEAN, std=STD)
    twice = Preprocessing(resize=20, crop=20, mean=MEAN, std=STD, native=28)
    made = picture_input(photos[12], once)
    assert made.shape == (1, 20, 20, 3)
    assert not np.array_equal(made, picture_input(photos[12], twice))

"""Resizing gives Pillow's grey levels, centre-cropped."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ofatvm.data.resize import SMALL_VALUES, centred, fitted, resized, weights
from tests.data.making import noise


def by_pillow(images: np.ndarray, size: int) -> np.ndarray:
    """Each image resized whole and then cropped."""
    tall, wide, top, left = fitted(*images.shape[1:3], size)
    done = []
    for pixels in images:
        with Image.fromarray(pixels.squeeze()) as image:
            whole = image.resize((wide, tall), Image.Resampling.BILINEAR)
            done.append(np.asarray(whole)[top : top + size, left : left + size])
    return np.stack(done).reshape(len(images), size, size, images.shape[3])


@pytest.mark.parametrize("size", [1, 5, 14, 20, 24, 27, 29, 32, 61])
@pytest.mark.parametrize("shape", [(9, 28, 28, 1), (4, 32, 32, 3)])
def test_square_images_are_exactly_as_from_pillow(shape: tuple[int, ...], size: int) -> None:
    images = noise(*shape)
    assert np.array_equal(resized(images, size), by_pillow(images, size))


@pytest.mark.parametrize("size", [12, 20, 31])
@pytest.mark.parametrize("shape", [(5, 28, 41, 1), (5, 40, 21, 3), (3, 20, 33, 3)])
def test_other_images_are_as_from_pillow_within_a_level(shape: tuple[int, ...], size: int) -> None:
    images = noise(*shape)
    difference = np.abs(resized(images, size).astype(int) - by_pillow(images, size))
    assert difference.max() <= 1


@pytest.mark.parametrize("shape", [(3, 100, 100, 3), (2, 150, 90, 1), (2, 90, 151, 3)])
def test_large_images_are_as_from_pillow(shape: tuple[int, ...]) -> None:
    assert np.prod(shape[1:]) > SMALL_VALUES
    images = noise(*shape)
    difference = np.abs(resized(images, 64).astype(int) - by_pillow(images, 64))
    assert difference.max() <= 1


def test_both_ways_agree_where_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(4, 30, 30, 3)
    matrices = resized(images, 22)
    monkeypatch.setattr("ofatvm.data.resize.SMALL_VALUES", 0)
    assert np.array_equal(resized(images, 22), matrices)


def test_many_images_are_done_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(50, 28, 28, 1)
    whole = resized(images, 20)
    monkeypatch.setattr("ofatvm.data.resize.CHUNK_VALUES", 3 * 28 * 28)
    assert np.array_equal(resized(images, 20), whole)


def test_the_same_size_is_the_same_array() -> None:
    images = noise(3, 28, 28, 1)
    assert np.shares_memory(resized(images, 28), images)
    assert np.array_equal(resized(images, 28), images)


def test_a_fitting_shorter_side_is_only_cropped() -> None:
    images = noise(3, 20, 31, 3)
    assert np.array_equal(resized(images, 20), images[:, :, 5:25])


def test_no_images_give_no_images() -> None:
    assert resized(noise(0, 28, 28, 1), 20).shape == (0, 20, 20, 1)


def test_weights_are_kept_and_cannot_be_changed() -> None:
    matrix = weights(28, 20, 0, 20)
    assert weights(28, 20, 0, 20) is matrix
    assert np.allclose(matrix.sum(axis=1), 1)
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 1


def test_a_long_strip_costs_no_more_than_its_centre() -> None:
    strip = noise(1, 50_000)
    with Image.fromarray(strip) as image:
        square = np.asarray(centred(image, 224))
    assert square.shape == (224, 224)
    middle = resized(np.ascontiguousarray(strip[:, 24_990:25_010])[None, ..., None], 224)
    assert np.abs(square.astype(int) - middle[0, :, :, 0]).max() <= 1

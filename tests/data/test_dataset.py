"""Images in memory, their channels, windows and statistics."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ofatvm.data import ArrayImages, Dataset, resized
from ofatvm.data.dataset import crop_box, statistics
from ofatvm.errors import DatasetError
from tests.data.making import noise, numbered


def test_a_batch_is_the_images_asked_for_at_the_size_asked_for() -> None:
    images = ArrayImages(noise(9, 8, 11, 3), np.arange(9))
    assert len(images) == 9
    assert images.native == 8
    batch = images.batch(np.array([4, 0, 4]), 6)
    assert batch.shape == (3, 6, 6, 3)
    squares = images.pixels[[4, 0, 4], :, 1:9]
    assert np.array_equal(batch, resized(squares, 6))


def test_taken_rows_keep_their_labels() -> None:
    taken = numbered(10).take(np.array([7, 2]))
    assert taken.pixels[:, 0, 0, 0].tolist() == [7, 2]
    assert taken.labels.tolist() == [1, 2]


def test_colour_becomes_grey_as_in_pillow() -> None:
    pixels = noise(3, 40, 40, 3)
    pixels[0, 0, :2] = [[255, 255, 255], [0, 0, 0]]
    grey = ArrayImages(pixels, np.zeros(3, int)).with_channels(1).pixels
    for got, image in zip(grey, pixels, strict=True):
        assert np.array_equal(got[..., 0], np.asarray(Image.fromarray(image).convert("L")))


def test_grey_becomes_three_equal_channels() -> None:
    images = ArrayImages(noise(2, 5, 5, 1), np.zeros(2, int))
    assert np.array_equal(
        images.with_channels(3).pixels, np.concatenate([images.pixels] * 3, axis=3)
    )
    assert images.with_channels(1) is images


@pytest.mark.parametrize(
    ("pixels", "labels", "said"),
    [
        (np.zeros((2, 5, 5), np.uint8), 2, r"\(2, 5, 5\)"),
        (np.zeros((2, 5, 5, 2), np.uint8), 2, r"\(2, 5, 5, 2\)"),
        (np.zeros((2, 5, 5, 1)), 2, "float64"),
        (np.zeros((2, 5, 5, 1), np.uint8), 3, "2 images have 3 labels"),
    ],
)
def test_arrays_that_are_no_images_are_refused(pixels: np.ndarray, labels: int, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        ArrayImages(pixels, np.zeros(labels, int))


def test_statistics_are_those_of_the_pixels() -> None:
    pixels = noise(300, 6, 6, 3)
    pixels[..., 1] //= 2
    mean, std = statistics(ArrayImages(pixels, np.zeros(300, int)), 3)
    values = pixels.reshape(-1, 3) / 255
    assert mean == tuple(values.mean(axis=0).round(4))
    assert std == tuple(values.std(axis=0).round(4))


def test_statistics_see_ten_thousand_evenly_spaced_images() -> None:
    pixels = np.zeros((20_000, 1, 1, 1), np.uint8)
    pixels[1::2] = 255
    assert statistics(ArrayImages(pixels, np.zeros(20_000, int)), 1) == ((0.0,), (1.0,))


def test_a_channel_that_never_changes_can_be_divided_by() -> None:
    pixels = noise(4, 5, 5, 3)
    pixels[..., 2] = 7
    assert statistics(ArrayImages(pixels, np.zeros(4, int)), 3)[1][2] == 1.0


def test_windows_are_parts_of_the_image() -> None:
    # area 1/4 of 20 x 10 at aspect 2 is 10 x 5
    assert crop_box(20, 10, np.array([0.25, 2.0, 0.0, 0.0])) == (0, 0, 10, 5)
    assert crop_box(20, 10, np.array([0.25, 2.0, 1.0, 1.0])) == (10, 5, 20, 10)
    assert crop_box(20, 10, np.array([1.0, 1.0, 0.5, 0.5])) == (3, 0, 17, 10)
    assert crop_box(3, 3, np.array([1e-9, 1.0, 0.5, 0.5])) == (1, 1, 2, 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_window_is_scaled_to_the_native_size(channels: int) -> None:
    images = ArrayImages(noise(3, 8, 12, channels), np.zeros(3, int))
    window = np.array([[1 / 6, 1.0, 1.0, 0.0]] * 2)
    cropped = images.cropped(np.array([2, 0]), window)
    assert np.array_equal(cropped, resized(images.pixels[[2, 0], :4, 8:12], 8))


def test_a_dataset_has_a_mean_and_deviation_per_channel() -> None:
    images = numbered(4)
    with pytest.raises(DatasetError, match=r"got 3, \(0\.5,\)"):
        Dataset("x", images, images, None, ("a", "b"), 3, (0.5,), (0.5,), "0")

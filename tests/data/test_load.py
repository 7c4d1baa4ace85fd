"""What `load_dataset` makes of archives, and what it refuses whatever the format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofatvm.data import ArrayImages, load_dataset
from ofatvm.errors import DatasetError
from tests.data.making import noise, write_npz


def pixels_of(images: object) -> np.ndarray:
    assert isinstance(images, ArrayImages)
    return images.pixels


def test_one_archive_has_a_part_held_out(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "shapes.npz", classes=np.array(["disc", "square", "star"]))
    dataset = load_dataset(path, size=6)
    assert dataset.name == "shapes"
    assert dataset.classes == ("disc", "square", "star")
    assert np.bincount(dataset.train.labels).tolist() == [8, 8, 9]
    assert np.bincount(dataset.val.labels).tolist() == [2, 2, 1]
    assert dataset.test is None
    together = np.concatenate([pixels_of(dataset.train), pixels_of(dataset.val)])
    rows = sorted(image.tobytes() for image in together)
    assert rows == sorted(image.tobytes() for image in noise(30, 6, 6))


def test_images_keep_their_labels_in_a_split(tmp_path: Path) -> None:
    labels = np.arange(30) % 3
    images = noise(30, 6, 6)
    images[:, 0, 0] = labels
    dataset = load_dataset(write_npz(tmp_path / "x.npz", images=images, labels=labels), size=6)
    for part in (dataset.train, dataset.val):
        assert np.array_equal(pixels_of(part)[:, 0, 0, 0], part.labels)


def test_images_stay_at_their_own_resolution(tmp_path: Path) -> None:
    dataset = load_dataset(write_npz(tmp_path / "x.npz"), size=4)
    assert dataset.train.native == 6
    assert dataset.train.batch(np.arange(2), 4).shape == (2, 4, 4, 1)


def test_mean_and_deviation_are_of_the_training_part(tmp_path: Path) -> None:
    dataset = load_dataset(write_npz(tmp_path / "x.npz"), size=6)
    values = pixels_of(dataset.train) / 255
    assert dataset.mean == (round(float(values.mean()), 4),)
    assert dataset.std == (round(float(values.std()), 4),)


def test_images_of_one_colour_are_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", images=np.full((30, 6, 6, 3), 9, np.uint8))
    with pytest.raises(DatasetError, match=r"all images of .*x\.npz are of one colour"):
        load_dataset(path, size=6)
    green = np.full((30, 6, 6, 3), 9, np.uint8)
    green[..., 1] = noise(30, 6, 6)
    assert load_dataset(write_npz(path, images=green), size=6).std[0] == 1.0


def test_a_folder_of_archives_has_its_own_parts(tmp_path: Path) -> None:
    write_npz(tmp_path / "train.npz")
    pixels = noise(6, 6, 6, seed=1)
    write_npz(tmp_path / "val.npz", images=pixels, labels=np.array([0, 1, 2] * 2))
    write_npz(tmp_path / "test.npz", images=noise(3, 6, 6, seed=2), labels=np.array([2, 1, 0]))
    dataset = load_dataset(tmp_path, size=6)
    assert (len(dataset.train), len(dataset.val)) == (30, 6)
    assert dataset.test is not None
    assert dataset.test.labels.tolist() == [2, 1, 0]


def test_a_test_archive_is_never_split_nor_in_the_digest(tmp_path: Path) -> None:
    write_npz(tmp_path / "train.npz")
    alone = load_dataset(tmp_path, size=6)
    pixels = noise(3, 6, 6, seed=1)
    write_npz(tmp_path / "test.npz", images=pixels, labels=np.array([2, 1, 0]))
    beside = load_dataset(tmp_path, size=6)
    assert np.array_equal(pixels_of(alone.val), pixels_of(beside.val))
    assert alone.digest == beside.digest
    assert (alone.test, len(beside.test or [])) == (None, 3)


def test_a_file_called_train_is_named_after_its_folder(tmp_path: Path) -> None:
    assert load_dataset(write_npz(tmp_path / "shapes" / "train.npz"), size=6).name == "shapes"


@pytest.mark.parametrize("place", ["fashion_mnist/train.npz", "Fashion-MNIST.npz"])
def test_fashion_classes_are_known_by_name(tmp_path: Path, place: str) -> None:
    path = write_npz(tmp_path / place, labels=np.arange(30) % 10)
    dataset = load_dataset(path, size=6, holdout=5)
    assert dataset.classes[0] == "T-shirt/top"
    assert dataset.classes[9] == "ankle boot"
    fewer = write_npz(tmp_path / place)
    assert load_dataset(fewer, size=6).classes == ("0", "1", "2")


def test_given_names_come_before_known_ones(tmp_path: Path) -> None:
    names = np.array([f"c{number}" for number in range(10)])
    path = write_npz(tmp_path / "fashion-mnist.npz", labels=np.arange(30) % 10, classes=names)
    assert load_dataset(path, size=6, holdout=5).classes == tuple(names)


def test_channels_are_converted_on_request(tmp_path: Path) -> None:
    grey = load_dataset(write_npz(tmp_path / "grey.npz"), size=6, channels=3)
    assert pixels_of(grey.train).shape[3] == grey.channels == len(grey.mean) == 3
    path = write_npz(tmp_path / "colour.npz", images=noise(30, 6, 6, 3))
    assert load_dataset(path, size=6).channels == 3
    assert pixels_of(load_dataset(path, size=6, channels=1).val).shape == (5, 6, 6, 1)


def test_all_parts_follow_the_training_part_in_channels(tmp_path: Path) -> None:
    write_npz(tmp_path / "train.npz", images=noise(30, 6, 6, 3))
    for seed, part in enumerate(("val", "test")):
        write_npz(tmp_path / f"{part}.npz", images=noise(30, 6, 6, seed=seed))
    dataset = load_dataset(tmp_path, size=6)
    assert pixels_of(dataset.val).shape == pixels_of(dataset.test).shape == (30, 6, 6, 3)


def test_the_digest_is_of_the_content_only(tmp_path: Path) -> None:
    one = write_npz(tmp_path / "one.npz")
    arrays = dict(np.load(one))
    np.savez(tmp_path / "two.npz", **arrays)
    digest = load_dataset(one, size=6).digest
    assert len(digest) == 64
    assert load_dataset(tmp_path / "two.npz", size=4, seed=5, holdout=3).digest == digest
    for name, place in (("images", (7, 3, 2)), ("labels", (0,))):
        changed = {key: array.copy() for key, array in arrays.items()}
        changed[name][place] ^= 1
        np.savez(tmp_path / "three.npz", **changed)
        assert load_dataset(tmp_path / "three.npz", size=6).digest != digest


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz")
    one, again, other = (pixels_of(load_dataset(path, size=6, seed=s).val) for s in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 0}, "resolution must be 1 to 4096, got 0"),
        ({"size": 5000}, "got 5000"),
        ({"channels": 4}, "--channels must be 1 .* got 4"),
        ({"seed": -2}, "--seed must be at least 0, got -2"),
        ({"holdout": 1.5}, "--holdout must be .* got 1.5"),
        ({"holdout": 29}, "holding out 29 of the 30 images"),
    ],
)
def test_values_out_of_range_are_refused(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    path = write_npz(tmp_path / "x.npz")
    with pytest.raises(DatasetError, match=said):
        load_dataset(path, **({"size": 6} | options))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": np.repeat([0, 2], 15)}, r"class '1' \(label 1\) has no training image"),
        ({"labels": np.zeros(30, int)}, r"has 1 class \(0\)"),
        ({"labels": np.array([1] + [0] * 29)}, "class '1' has 1 training image"),
        ({"labels": np.arange(30) % 3 - 1}, "label -1 of image 0"),
        ({"labels": np.arange(30) % 3 * 1.0}, "float64"),
        ({"classes": np.array(["a", "b"])}, r"label 2 of image 2 .* \(0 to 1\)"),
        ({"classes": np.array(["a", "b", "c", "d"])}, r"class 'd' \(label 3\) has no training"),
        ({"images": noise(0, 6, 6), "labels": np.zeros(0, int)}, "holds no images"),
    ],
)
def test_labels_and_classes_must_fit(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = write_npz(tmp_path / "x.npz", **changes)
    with pytest.raises(DatasetError, match=said) as error:
        load_dataset(path, size=6)
    assert "x.npz" in error.value.message
    assert error.value.hint


def test_validation_labels_must_be_classes_of_training(tmp_path: Path) -> None:
    write_npz(tmp_path / "train.npz")
    write_npz(tmp_path / "val.npz", labels=np.arange(30) % 4)
    with pytest.raises(DatasetError, match=r"label 3 of image 3 in .*val\.npz"):
        load_dataset(tmp_path, size=6)


def test_validation_has_images_of_every_class(tmp_path: Path) -> None:
    write_npz(tmp_path / "train.npz")
    write_npz(tmp_path / "val.npz", labels=np.arange(30) % 2)
    with pytest.raises(DatasetError, match="class '2' has no image in the validation part"):
        load_dataset(tmp_path, size=6)


def test_validation_must_not_be_empty(tmp_path: Path) -> None:
    write_npz(tmp_path / "train.npz")
    write_npz(tmp_path / "val.npz", images=noise(0, 6, 6), labels=np.zeros(0, int))
    with pytest.raises(DatasetError, match=r"val\.npz holds no images"):
        load_dataset(tmp_path, size=6)


def test_parts_with_other_class_names_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "train.npz", classes=np.array(["a", "b", "c"]))
    write_npz(tmp_path / "val.npz", classes=np.array(["a", "c", "b"]))
    with pytest.raises(DatasetError, match=r"the same classes, got .*'c', 'b'"):
        load_dataset(tmp_path, size=6)


def test_nothing_is_held_out_of_a_set_with_a_validation_part(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_npz(tmp_path / f"{part}.npz")
    with pytest.raises(DatasetError, match="--holdout 5 does not apply"):
        load_dataset(tmp_path, size=6, holdout=5)


def test_importing_the_package_loads_no_image_library() -> None:
    code = "import sys, ofatvm.data; print(*sorted({'PIL', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

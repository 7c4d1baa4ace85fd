from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ofatvm.data import load_dataset, load_images
from ofatvm.errors import DatasetError, MissingInputError
from tests.data.making import noise, write_classes, write_mnist, write_npz

CLASSES = ("cat", "dog")


def save(path: Path, labels: list[int], shade: int = 0) -> None:
    images = np.full((len(labels), 8, 8), shade, np.uint8)
    np.savez(path, images=images, labels=np.array(labels))


def test_one_file_gives_all_its_images_in_order(tmp_path: Path) -> None:
    save(tmp_path / "some.npz", [1, 0, 1])
    images = load_images(tmp_path / "some.npz", classes=CLASSES, channels=3, size=8)
    assert images.labels.tolist() == [1, 0, 1]
    assert images.batch(np.arange(3), 8).shape == (3, 8, 8, 3)


def test_the_test_part_goes_before_the_others(tmp_path: Path) -> None:
    save(tmp_path / "train.npz", [0, 1, 0, 1], 1)
    save(tmp_path / "val.npz", [0, 1], 2)
    images = load_images(tmp_path, classes=CLASSES, channels=1, size=8)
    assert set(images.batch(np.arange(len(images)), 8).ravel()) == {2}
    save(tmp_path / "test.npz", [1], 3)
    images = load_images(tmp_path, classes=CLASSES, channels=1, size=8)
    assert set(images.batch(np.arange(len(images)), 8).ravel()) == {3}


def folder(path: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (path / name).mkdir(parents=True)
        for place in range(2):
            Image.new("L", (9, 12), 7).save(path / name / f"{place}.png")
    return path


def test_an_image_folder_must_have_the_classes_of_the_network(tmp_path: Path) -> None:
    images = load_images(folder(tmp_path / "a", CLASSES), classes=CLASSES, channels=1, size=8)
    assert images.labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(DatasetError, match=r"class 1 of .* is 'cow', the network's is 'dog'"):
        load_images(folder(tmp_path / "b", ("cat", "cow")), classes=CLASSES, channels=1, size=8)


def test_more_classes_than_the_network_has_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "some.npz", [0, 2])
    with pytest.raises(DatasetError, match="has the label 2, the network knows 2 classes"):
        load_images(tmp_path / "some.npz", classes=CLASSES, channels=1, size=8)


def test_arrays_that_name_their_classes_must_name_those_of_the_network(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    arrays = {"images": np.zeros((2, 8, 8), np.uint8), "labels": np.array([0, 1])}
    np.savez(path, **arrays, classes=np.array(CLASSES))
    assert len(load_images(path, classes=CLASSES, channels=1, size=8)) == 2
    np.savez(path, **arrays, classes=np.array(CLASSES[::-1]))
    with pytest.raises(DatasetError, match=r"class 0 of .* is 'dog', the network's is 'cat'"):
        load_images(path, classes=CLASSES, channels=1, size=8)
    np.savez(path, **arrays, classes=np.array([*CLASSES, "owl"]))
    with pytest.raises(DatasetError, match="has 3 classes, the network knows 2"):
        load_images(path, classes=CLASSES, channels=1, size=8)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"gone\.npz"):
        load_images(tmp_path / "gone.npz", classes=CLASSES, channels=1, size=8)


def test_a_test_part_alone_is_enough(tmp_path: Path) -> None:
    for file in write_mnist(tmp_path).glob("train-*"):
        file.unlink()
    digits = tuple("0123456789")
    images = load_images(tmp_path, classes=digits, channels=1, size=5)
    assert images.labels.tolist() == list(range(10))


def test_arrays_that_were_trained_on_or_chosen_by_are_refused(tmp_path: Path) -> None:
    dataset = load_dataset(write_npz(tmp_path / "mine.npz"), size=6, channels=3)
    options = {"classes": tuple("012"), "channels": 3, "size": 6, "apart_from": dataset}
    write_npz(tmp_path / "other.npz", images=noise(30, 6, 6, seed=1))
    assert len(load_images(tmp_path / "other.npz", **options)) == 30
    for part, images in (("training", dataset.train), ("validation", dataset.val)):
        pixels = images.batch(np.arange(len(images)), 6)[..., 0]
        labels = images.labels.astype(np.uint8)
        path = write_npz(tmp_path / f"{part}.npz", images=pixels, labels=labels)
        said = f"{len(labels)} of the {len(labels)} pictures in {path} are in the {part} part"
        with pytest.raises(DatasetError, match=said):
            load_images(path, **options)


def test_files_that_were_trained_on_are_refused_under_any_name(tmp_path: Path) -> None:
    counts = {"cat": 8, "dog": 8}
    dataset = load_dataset(write_classes(tmp_path / "mine", counts), size=8, memory_bytes=0)
    other = write_classes(tmp_path / "other", counts, seed=500)
    options = {"classes": CLASSES, "channels": 3, "size": 8, "apart_from": dataset}
    assert len(load_images(other, **options)) == 16
    shutil.copy(tmp_path / "mine" / "dog" / "003.png", other / "dog" / "new.png")
    with pytest.raises(DatasetError, match=r"same picture is in two parts: .*new\.png is .*003\."):
        load_images(other, **options)

"""Parts that share pictures are refused, whatever they are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofatvm.data import load_dataset
from ofatvm.data.apart import check_arrays_apart, check_files_apart
from ofatvm.errors import DatasetError
from tests.data.making import noise, numbered, write_image, write_npz


@pytest.mark.parametrize(("one", "other"), [("train", "val"), ("train", "test"), ("val", "test")])
def test_equal_arrays_in_two_parts_are_refused(tmp_path: Path, one: str, other: str) -> None:
    for seed, part in enumerate(("train", "val", "test")):
        write_npz(tmp_path / f"{part}.npz", images=noise(30, 6, 6, seed=seed))
    assert len(load_dataset(tmp_path, size=6).val) == 30
    names = {"train": "training", "val": "validation", "test": "test"}
    (tmp_path / f"{other}.npz").write_bytes((tmp_path / f"{one}.npz").read_bytes())
    with pytest.raises(DatasetError) as error:
        load_dataset(tmp_path, size=6)
    assert error.value.message == (
        f"30 of the 30 pictures in the {names[other]} part of {tmp_path} are in the {names[one]} "
        f"part of {tmp_path}, too"
    )


def test_a_set_that_holds_pictures_twice_is_split_and_its_copies_counted(tmp_path: Path) -> None:
    once, twice = noise(300, 6, 6), np.concatenate([noise(300, 6, 6)] * 2)
    path = write_npz(tmp_path / "once.npz", images=once, labels=np.arange(300) % 3)
    assert load_dataset(path, size=6).copies == 0
    path = write_npz(tmp_path / "twice.npz", images=twice, labels=np.arange(600) % 3)
    dataset = load_dataset(path, size=6)
    train = {pixels.tobytes() for pixels in dataset.train.pixels}
    assert dataset.copies == sum(pixels.tobytes() in train for pixels in dataset.val.pixels) > 30


@pytest.mark.parametrize("known", ["trained on", "held out"])
def test_a_test_part_of_a_set_that_is_split_may_hold_neither_part(
    tmp_path: Path, known: str
) -> None:
    write_npz(tmp_path / "train.npz", images=noise(300, 6, 6), labels=np.arange(300) % 3)
    split = load_dataset(tmp_path, size=6)
    part = split.train if known == "trained on" else split.val
    write_npz(tmp_path / "test.npz", images=part.pixels, labels=part.labels)
    with pytest.raises(DatasetError, match="pictures in the test part"):
        load_dataset(tmp_path, size=6)


def test_a_few_shared_pictures_are_what_published_sets_have() -> None:
    images = numbered(100)
    late, early = images.take(np.arange(50, 100)), images.take(np.arange(55))
    check_arrays_apart({"train": early, "test": late})
    with pytest.raises(DatasetError, match="6 of the 50 pictures in test are in train"):
        check_arrays_apart({"train": images.take(np.arange(56)), "test": late})


def test_many_copies_of_one_blank_picture_count_once() -> None:
    images = numbered(200)
    blank = np.zeros(60, int)
    early = images.take(np.concatenate([blank, np.arange(1, 100)]))
    late = images.take(np.concatenate([blank, np.arange(100, 200)]))
    check_arrays_apart({"train": early, "val": late})


def test_bytes_alone_do_not_make_pictures_equal() -> None:
    flat = numbered(9, side=4)
    tall = type(flat)(flat.pixels.reshape(9, 8, 2, 1), flat.labels)
    check_arrays_apart({"train": flat, "val": tall})


def test_files_are_compared_with_every_earlier_part(tmp_path: Path) -> None:
    rows = [np.zeros((60, 90, 3), np.uint8) for _ in range(3)]
    for level, pixels in enumerate(rows):
        pixels[0] = level
    # Bitmaps begin with the last row: all of one size, and their ends are alike.
    paths = [write_image(tmp_path / f"{n}.bmp", pixels[::-1]) for n, pixels in enumerate(rows)]
    check_files_apart({"train": (paths[0],), "val": (paths[1],), "test": (paths[2],)})
    with pytest.raises(DatasetError, match=r"1\.bmp is .*1\.bmp$"):
        check_files_apart({"train": (paths[0],), "val": (paths[1],), "test": (paths[1],)})

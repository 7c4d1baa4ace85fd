"""MNIST's and CIFAR's own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofatvm.data import ArrayImages, load_dataset
from ofatvm.data.binary import CIFAR10_FILES, read_idx
from ofatvm.errors import DatasetError, MissingInputError
from tests.data.making import noise, write_idx, write_mnist


def write_cifar10(folder: Path, each: int = 10) -> Path:
    folder.mkdir()
    for seed, name in enumerate((*CIFAR10_FILES, "test_batch.bin"), 1):
        rows = noise(each, 3073, seed=seed)
        rows[:, 0] = np.arange(each) % 5
        rows.tofile(folder / name)
    (folder / "batches.meta.txt").write_text("a\nb\nc\nd\ne\n\n")
    return folder


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_are_read(tmp_path: Path, end: str) -> None:
    dataset = load_dataset(write_mnist(tmp_path / "digits", 40, end), size=5, holdout=10)
    assert dataset.name == "digits"
    assert dataset.classes == tuple("0123456789")
    assert (len(dataset.train), len(dataset.val)) == (30, 10)
    assert dataset.test is not None
    assert isinstance(dataset.test, ArrayImages)
    assert np.array_equal(dataset.test.pixels[..., 0], noise(10, 5, 5, seed=10))
    assert dataset.test.labels.tolist() == list(range(10))
    assert dataset.channels == 1


def test_both_spellings_and_packings_are_the_same_set(tmp_path: Path) -> None:
    one = write_mnist(tmp_path / "one", end="")
    two = write_mnist(tmp_path / "two")
    for path in list(two.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert load_dataset(one, size=5).digest == load_dataset(two, size=5).digest


@pytest.mark.parametrize(
    ("name", "named"), [("fashion_mnist", True), ("Fashion-MNIST", True), ("kmnist", False)]
)
@pytest.mark.parametrize("below", ["", "raw"])
def test_fashion_is_known_by_its_name(tmp_path: Path, name: str, named: bool, below: str) -> None:
    dataset = load_dataset(write_mnist(tmp_path / name / below), size=5)
    assert (dataset.classes[9] == "ankle boot") == named
    assert len(dataset.classes) == 10


def test_a_half_of_an_idx_set_is_missing(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "x")
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(MissingInputError, match=r"x has no train-labels-idx1-ubyte"):
        load_dataset(folder, size=5)


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ("t10k-images-idx3-ubyte.gz", "train-images-idx3-ubyte"),
        ("test_batch.bin", "data_batch_1.bin"),
        ("test.bin", "train.bin"),
        ("test.npz", "train.npz"),
        ("val.npz", "train.npz"),
    ],
)
def test_a_set_without_its_training_part_says_what_is_missing(
    tmp_path: Path, there: str, missing: str
) -> None:
    (tmp_path / there).touch()
    with pytest.raises(MissingInputError) as error:
        load_dataset(tmp_path, size=5)
    assert f"{tmp_path} has {there} but no {missing}" in error.value.message
    assert "training part" in error.value.hint


def test_idx_images_without_their_labels_are_refused(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "x")
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(39))
    with pytest.raises(DatasetError, match=r"has 40 images but .* has 39 labels"):
        load_dataset(folder, size=5)


def test_a_test_part_with_a_class_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "x")
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.arange(10) + 1)
    with pytest.raises(DatasetError, match="label 10 of image 9"):
        load_dataset(folder, size=5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: b"\x00\x00\x0d" + data[3:], "begins '00000d03'"),
        (lambda data: data[:10], "not an idx file"),
        (lambda data: data[:-1], r"must hold 24 bytes of shape \(2, 3, 4\), it has 23"),
        (lambda data: data + b"x", "it has more"),
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "claims .* bytes, more than"),
        (lambda data: data[:4] + bytes(4) + b"\xff" * 8, r"holds no pixels, its shape is \(0, 4"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_idx_files_are_refused(
    tmp_path: Path, change: object, said: str, packed: bool
) -> None:
    import gzip

    whole = write_idx(tmp_path / "whole", noise(2, 3, 4)).read_bytes()
    data = change(whole)  # type: ignore[operator]
    path = tmp_path / ("x.gz" if packed else "x")
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DatasetError, match=said) as error:
        read_idx(path, 3)
    assert str(path) in error.value.message


def test_a_damaged_gz_is_refused(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "x.gz", noise(2, 30, 40))
    data = path.read_bytes()
    for broken in (data[:-20], b"nonsense", data[:200] + b"\xff" * 50 + data[250:]):
        path.write_bytes(broken)
        with pytest.raises(DatasetError, match=r"x\.gz"):
            read_idx(path, 3)


def test_cifar_10_is_read(tmp_path: Path) -> None:
    dataset = load_dataset(write_cifar10(tmp_path / "cifar"), size=32, holdout=10)
    assert dataset.classes == ("a", "b", "c", "d", "e")
    assert (len(dataset.train), len(dataset.val), dataset.channels) == (40, 10, 3)
    assert isinstance(dataset.test, ArrayImages)
    record = noise(10, 3073, seed=6)[3]
    pixel = dataset.test.pixels[3, 7, 9]
    assert pixel.tolist() == record[1:].reshape(3, 32, 32)[:, 7, 9].tolist()
    assert dataset.test.labels[3] == 3


def test_cifar_100_has_its_fine_labels(tmp_path: Path) -> None:
    rows = noise(18, 3074)
    rows[:, 0] = 9
    rows[:, 1] = np.arange(18) % 3
    rows.tofile(tmp_path / "train.bin")
    (tmp_path / "fine_label_names.txt").write_text("x\ny\nz\n")
    dataset = load_dataset(tmp_path, size=32)
    assert dataset.classes == ("x", "y", "z")
    assert dataset.test is None
    assert np.bincount(dataset.train.labels).tolist() == [5, 5, 5]


def test_cifar_without_names_has_numbers(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path / "cifar")
    (folder / "batches.meta.txt").unlink()
    assert load_dataset(folder, size=32).classes == ("0", "1", "2", "3", "4")


def test_broken_cifar_is_refused(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path / "cifar")
    batch = folder / "data_batch_3.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"data_batch_3\.bin .* 3073 bytes.* 30729"):
        load_dataset(folder, size=32)
    batch.unlink()
    with pytest.raises(MissingInputError, match=r"no such file: .*data_batch_3\.bin"):
        load_dataset(folder, size=32)
    (folder / "data_batch_1.bin").unlink()
    with pytest.raises(MissingInputError, match=r"no such file: .*data_batch_1\.bin"):
        load_dataset(folder, size=32)


def test_cifar_names_are_distinct(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path / "cifar")
    (folder / "batches.meta.txt").write_text("a\nb\nc\na\ne\n")
    with pytest.raises(DatasetError, match="must be distinct, 'a' is there twice"):
        load_dataset(folder, size=32)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path / "cifar")
    (folder / "batches.meta.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DatasetError, match=r"batches\.meta\.txt cannot be read"):
        load_dataset(folder, size=32)


@pytest.mark.parametrize("names", [("data_batch_1", "batches.meta"), ("train", "meta")])
def test_pickled_cifar_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DatasetError, match=f"{names[0]} is .* pickles are not read") as error:
        load_dataset(tmp_path, size=32)
    assert "binary version" in error.value.hint

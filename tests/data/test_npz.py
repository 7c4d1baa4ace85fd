"""Archives are read without trust: sizes first, never a pickle, damage is one clear line."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofatvm.data import Dataset, load_dataset
from ofatvm.data.npz import class_names, read_npz
from ofatvm.errors import DatasetError, MissingInputError
from tests.data.making import noise, write_npz


def member(shape: object, dtype: str = "|u1", body: bytes = b"") -> bytes:
    """A .npy file whose header claims `shape`."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


def write_members(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(("shape", "read"), [((5, 4, 3), (5, 4, 3, 1)), ((5, 4, 3, 3),) * 2])
def test_images_come_with_a_channel_axis(
    tmp_path: Path, shape: tuple[int, ...], read: tuple[int, ...]
) -> None:
    given_images, given_labels = noise(*shape), np.arange(5, dtype=np.int16)
    path = write_npz(tmp_path / "x.npz", images=given_images, labels=given_labels)
    images, labels, classes = read_npz(path)
    assert images.shape == read
    assert np.array_equal(images.reshape(shape), given_images)
    assert np.array_equal(labels, given_labels)
    assert classes is None


def test_arrays_in_column_order_are_read(tmp_path: Path) -> None:
    given_images = np.asfortranarray(noise(30, 6, 6))
    images, _, _ = read_npz(write_npz(tmp_path / "x.npz", images=given_images))
    assert np.array_equal(images[..., 0], given_images)


def test_files_of_python_2_are_read_without_a_warning(tmp_path: Path) -> None:
    images = member((3, 6, 6), body=bytes(range(108))).replace(b"(3, 6", b"(3L,6")
    path = write_members(
        tmp_path / "x.npz", {"images.npy": images, "labels.npy": member((3,), body=bytes(3))}
    )
    assert read_npz(path)[0].ravel().tolist() == list(range(108))


def test_class_names_are_read(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", classes=np.array(["a", "ü", "c"]))
    assert read_npz(path)[2] == ("a", "ü", "c")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": None}, "no array 'images', only"),
        ({"labels": None}, "no array 'labels', only"),
        ({"images": np.zeros((30, 6, 6))}, r"float64 \(30, 6, 6\)"),
        ({"images": np.zeros((30, 36), np.uint8)}, r"uint8 \(30, 36\)"),
        ({"images": np.zeros((30, 6, 6, 4), np.uint8)}, r"\(30, 6, 6, 4\)"),
        ({"images": np.zeros((30, 0, 6), np.uint8)}, r"\(30, 0, 6\)"),
        ({"labels": np.zeros(29, int)}, r"30 images but labels of shape \(29,\)"),
        ({"labels": np.zeros((30, 1), int)}, r"30 images but labels of shape \(30, 1\)"),
        ({"labels": np.array([None] * 30)}, "'labels' .* has type object"),
        ({"classes": np.array([b"a", b"b", b"c"])}, "'classes' .* has type"),
        ({"classes": np.array([1, 2, 3])}, "classes .* must be text"),
        ({"classes": np.array(["a", "b", "a"])}, "'a' is there twice"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = write_npz(tmp_path / "x.npz", **changes)
    with pytest.raises(DatasetError, match=said) as error:
        read_npz(path)
    assert str(path) in error.value.message
    assert error.value.hint


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path.joinpath("ran").write_text, ("yes",))

    path = write_npz(tmp_path / "x.npz", images=np.array([Bomb()], dtype=object))
    with pytest.raises(DatasetError, match="has type object"):
        read_npz(path)
    assert not (tmp_path / "ran").exists()


def test_more_than_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", images=np.zeros((30, 100, 100), np.uint8))
    with pytest.raises(DatasetError, match="takes 300000 bytes, more than 299999"):
        read_npz(path, limit_bytes=299_999)
    assert read_npz(path, limit_bytes=300_000)[0].shape == (30, 100, 100, 1)


@pytest.mark.parametrize(
    "shape", [(1 << 40, 6, 6), (3, 6, 7), (-3, -6, 6), (3, 6), (2**70, 2**70, 6)]
)
def test_a_header_that_lies_about_the_size_is_refused(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    data = {"images.npy": member(shape, body=bytes(108)), "labels.npy": member((3,), body=bytes(3))}
    with pytest.raises(DatasetError, match="images") as error:
        read_npz(write_members(tmp_path / "x.npz", data))
    assert str(shape) in error.value.message


def test_a_huge_array_is_refused_by_its_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", member((9 << 20, 32, 32)))
        archive.writestr("labels.npy", member((3,), body=bytes(3)))
        size = len(member((9 << 20, 32, 32))) + (9 << 30)
        archive.getinfo("images.npy").file_size = size
    with pytest.raises(DatasetError, match=f"takes {9 << 30} bytes, more than {8 << 30}"):
        read_npz(path)


def test_other_packing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("images.npy", member((3, 6, 6), body=bytes(108)))
    with pytest.raises(DatasetError, match="packed by a method"):
        read_npz(path)


def test_a_missing_file_and_a_file_that_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"no such file: .*x\.npz"):
        read_npz(tmp_path / "x.npz")
    text = tmp_path / "x.txt"
    text.write_text("hello")
    with pytest.raises(DatasetError, match=r"x\.txt is not a readable \.npz file"):
        read_npz(text)


def whole_archive() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        images=noise(18, 4, 4),
        labels=np.arange(18) % 3,
        classes=np.array(["a", "b", "c"]),
    )
    return stream.getvalue()


WHOLE = whole_archive()


def loaded_or_refused(path: Path) -> Dataset | str:
    """The dataset, or the message with which it was refused; anything else is a failure."""
    try:
        return load_dataset(path, size=4)
    except (DatasetError, MissingInputError) as error:
        return error.message


@settings(max_examples=300, deadline=None)
@given(
    cut=st.integers(0, len(WHOLE)),
    flips=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), max_size=4),
)
def test_damaged_archives_load_or_are_refused_in_one_line(
    cut: int, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(WHOLE)
    for place, change in flips:
        data[place] ^= change
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npz")
        path.write_bytes(bytes(data[:cut] if not flips else data))
        found = loaded_or_refused(path)
    if isinstance(found, str):
        assert "\n" not in found
        assert "x.npz" in found
    else:
        assert len(found.train) + len(found.val) == 18


@settings(max_examples=300, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255)), min_size=1, max_size=5))
def test_damaged_headers_inside_a_sound_archive_are_refused_too(
    flips: list[tuple[int, int]],
) -> None:
    images = bytearray(member((18, 4, 4), body=bytes(18 * 16)))
    for place, value in flips:
        images[place] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npz")
        labels = member((18,), body=bytes([0, 1] * 9))
        write_members(path, {"images.npy": bytes(images), "labels.npy": labels})
        assert "\n" not in str(loaded_or_refused(path))


@pytest.mark.parametrize("point", [0x7FFFFFFF, 0xD800])
def test_class_names_that_are_no_text_are_refused(tmp_path: Path, point: int) -> None:
    points = np.array(list("abcd")).view("u4").copy()
    points[0] = point
    with pytest.raises(DatasetError, match="not valid text"):
        class_names(points.view("<U1"), tmp_path / "names.npz")

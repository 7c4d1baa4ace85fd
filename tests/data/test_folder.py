"""Image folders: classes, splits, channels, broken files, and images that stay in their files."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ofatvm.data import ArrayImages, Augment, FolderImages, load_dataset, train_batches
from ofatvm.data.decode import decoded, in_threads
from ofatvm.data.folder import read_folder
from ofatvm.data.resize import resized
from ofatvm.errors import DatasetError
from tests.data.making import noise, pixels_of, write_classes, write_image

CATS_AND_DOGS = {"cat": 6, "dog": 6}


def bomb(path: Path, side: int) -> Path:
    """A PNG whose header claims side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def test_class_folders_are_split_by_class(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "pets", {"dog": 12, "cat": 6})
    dataset = load_dataset(folder, size=8)
    assert dataset.name == "pets"
    assert dataset.classes == ("cat", "dog")
    assert np.bincount(dataset.train.labels).tolist() == [5, 10]
    assert np.bincount(dataset.val.labels).tolist() == [1, 2]
    assert dataset.test is None
    assert isinstance(dataset.train, ArrayImages)
    assert dataset.train.pixels.shape == (15, 8, 8, 3)


@pytest.mark.parametrize("val", ["val", "validation", "valid"])
def test_train_and_val_are_taken_as_they_are(tmp_path: Path, val: str) -> None:
    write_classes(tmp_path / "train", {"a": 3, "b": 4})
    write_classes(tmp_path / val, {"a": 2, "b": 1}, seed=99)
    write_classes(tmp_path / "test", {"a": 1, "b": 1}, seed=50)
    dataset = load_dataset(tmp_path, size=8)
    assert dataset.train.labels.tolist() == [0] * 3 + [1] * 4
    assert dataset.val.labels.tolist() == [0, 0, 1]
    assert dataset.test is not None
    assert dataset.test.labels.tolist() == [0, 1]
    assert isinstance(dataset.val, ArrayImages)
    assert np.array_equal(dataset.val.pixels[2], decoded(tmp_path / val / "b/000.png", 3, 8))


def test_train_alone_has_a_part_held_out_and_test_stays_apart(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", CATS_AND_DOGS)
    alone = load_dataset(tmp_path, size=8)
    write_classes(tmp_path / "test", {"cat": 1, "dog": 2}, seed=7)
    dataset = load_dataset(tmp_path, size=8)
    assert dataset.digest == alone.digest
    assert (len(dataset.train), len(dataset.val)) == (10, 2)
    assert dataset.test is not None
    assert len(dataset.test) == 3


@pytest.mark.parametrize("name", ["bus", "Val"])
def test_what_is_no_part_beside_train_is_not_passed_over(tmp_path: Path, name: str) -> None:
    write_classes(tmp_path / "train", CATS_AND_DOGS)
    write_classes(tmp_path / name, CATS_AND_DOGS)
    with pytest.raises(DatasetError, match=f"beside it {name}"):
        load_dataset(tmp_path, size=8)
    for path in sorted((tmp_path / name).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert load_dataset(tmp_path, size=8).classes == ("cat", "dog")


def test_train_may_be_the_name_of_a_class(tmp_path: Path) -> None:
    dataset = load_dataset(write_classes(tmp_path, {"bus": 4, "train": 4}), size=8)
    assert dataset.classes == ("bus", "train")


def test_other_files_do_not_count(tmp_path: Path) -> None:
    write_classes(tmp_path, CATS_AND_DOGS)
    (tmp_path / "README.md").write_text("pets")
    (tmp_path / "cat" / "notes.txt").write_text("tabby")
    (tmp_path / "cat" / "._000.png").write_text("resource fork")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cat" / ".thumbs").mkdir()
    (tmp_path / "cat" / ".thumbs" / "x.png").write_text("no image")
    write_image(tmp_path / "cat" / "deep" / "er.PNG", noise(9, 9, 3))
    dataset = load_dataset(tmp_path, size=8)
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.train) + len(dataset.val) == 13


def test_the_digest_is_of_names_and_sizes(tmp_path: Path) -> None:
    one = load_dataset(write_classes(tmp_path / "one", CATS_AND_DOGS), size=8)
    same = load_dataset(write_classes(tmp_path / "two", CATS_AND_DOGS), size=6, seed=3)
    assert same.digest == one.digest
    (tmp_path / "two/cat/000.png").rename(tmp_path / "two/cat/zzz.png")
    assert load_dataset(tmp_path / "two", size=8).digest != one.digest
    write_image(tmp_path / "one/cat/000.png", noise(30, 30, 3))
    assert load_dataset(tmp_path / "one", size=8).digest != one.digest


def test_folders_of_grey_images_have_one_channel(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, CATS_AND_DOGS, grey=True)
    assert load_dataset(folder, size=8).channels == 1
    with Image.open(folder / "dog" / "001.png") as image:
        image.convert("LA").save(folder / "dog" / "001.png")
    assert load_dataset(folder, size=8).channels == 1
    assert load_dataset(folder, size=8, channels=3).channels == 3
    write_image(folder / "dog" / "000.png", noise(10, 12, 3))
    dataset = load_dataset(folder, size=8)
    assert dataset.channels == len(dataset.mean) == len(dataset.std) == 3
    assert load_dataset(folder, size=8, channels=1).channels == 1


def test_decoding_resizes_and_crops_as_arrays_are(tmp_path: Path) -> None:
    pixels = noise(20, 30, 3)
    path = write_image(tmp_path / "x.png", pixels)
    assert np.array_equal(decoded(path, 3, 20), pixels[:, 5:25])
    difference = decoded(path, 3, 11).astype(int) - resized(pixels[None], 11)[0]
    assert np.abs(difference).max() <= 1
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(decoded(path, 1, 20)[..., 0], grey[:, 5:25])


def test_images_are_turned_upright(tmp_path: Path) -> None:
    pixels = noise(16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write_image(tmp_path / "x.png", pixels, exif=exif)
    assert np.array_equal(decoded(path, 1, 16)[..., 0], np.rot90(pixels, -1))


def test_sixteen_bit_greys_keep_their_upper_eight(tmp_path: Path) -> None:
    wide = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + 255
    path = write_image(tmp_path / "x.png", wide)
    assert np.array_equal(decoded(path, 1, 16)[..., 0], wide >> 8)


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "LA", "CMYK"])
def test_other_modes_become_colour(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    with Image.fromarray(noise(9, 9, 3)) as source, source.convert(mode) as image:
        image.save(path)
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decoded(path, 3, 9), expected)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with Image.fromarray(noise(9, 9) % 4).convert("P") as image:
        image.save(path, transparency=bytes([0, 100, 200, 255]))
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decoded(path, 3, 9), expected)


def test_images_that_do_not_fit_stay_in_their_files(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, CATS_AND_DOGS)
    needed = 12 * 8 * 8 * 3
    loaded = load_dataset(folder, size=8, memory_bytes=needed)
    lazy = load_dataset(folder, size=8, memory_bytes=needed - 1)
    assert isinstance(loaded.train, ArrayImages)
    assert isinstance(lazy.train, FolderImages)
    assert (lazy.mean, lazy.std, lazy.digest) == (loaded.mean, loaded.std, loaded.digest)
    assert np.array_equal(lazy.train.labels, loaded.train.labels)
    assert len(lazy.train) == len(loaded.train) == 10
    rows = np.array([7, 0, 3])
    assert np.array_equal(lazy.train.batch(rows, 8), loaded.train.pixels[rows])
    assert lazy.train.batch(rows, 5).shape == (3, 5, 5, 3)


def test_both_kinds_give_the_same_batches(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, CATS_AND_DOGS)
    epochs = [
        list(
            train_batches(
                load_dataset(folder, size=8, memory_bytes=memory_bytes).train,
                batch=4,
                epoch=1,
                seed=2,
                sizes_of_step=lambda step: (6 + step,),
                augment=Augment(erase=0.5),
            )
        )
        for memory_bytes in (0, 1 << 20)
    ]
    for one, two in zip(*epochs, strict=True):
        assert np.array_equal(pixels_of(one), pixels_of(two))
        assert np.array_equal(one.labels, two.labels)


def test_windows_of_files_are_cut_at_full_resolution(tmp_path: Path) -> None:
    pixels = noise(40, 80, 3)
    path = write_image(tmp_path / "x.png", pixels)
    images = FolderImages((path,), np.zeros(1, int), 3, 10)
    cropped = images.cropped(np.array([0]), np.array([[100 / 3200, 1.0, 1.0, 0.0]]))
    assert np.array_equal(cropped[0], pixels[:10, 70:])


def test_threads_keep_the_order_and_raise_the_first_error() -> None:
    assert in_threads(lambda row: row * 2, 100) == list(range(0, 200, 2))

    def fail(row: int) -> None:
        if row in (40, 70):
            raise DatasetError(f"row {row}")

    with pytest.raises(DatasetError, match="row 40"):
        in_threads(fail, 100)


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, memory_bytes: int) -> None:
    folder = write_classes(tmp_path, {"cat": 90, "dog": 6})
    broken = folder / "cat" / "005.png"
    broken.write_text("not a picture")
    with pytest.raises(DatasetError, match=f"{broken} is not an image") as error:
        load_dataset(folder, size=8, memory_bytes=memory_bytes)
    assert "repair or remove" in error.value.hint


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_a_damaged_image_is_named_at_load(tmp_path: Path, memory_bytes: int) -> None:
    folder = write_classes(tmp_path, CATS_AND_DOGS)
    broken = folder / "dog" / "002.png"
    data = bytearray(broken.read_bytes())
    data[len(data) // 2] ^= 0xFF
    broken.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match=f"{broken} cannot be decoded: ") as error:
        load_dataset(folder, size=8, memory_bytes=memory_bytes)
    assert "\n" not in error.value.message
    with pytest.raises(DatasetError, match=f"{broken} cannot be decoded: "):
        FolderImages((broken,), np.zeros(1, int), 3, 8).verified()


def test_a_truncated_jpeg_is_named_before_training(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, CATS_AND_DOGS)
    broken = write_image(folder / "dog" / "x.jpg", noise(64, 64, 3))
    broken.write_bytes(broken.read_bytes()[:-400])
    with pytest.raises(DatasetError, match=r"x\.jpg cannot be decoded: .*truncated"):
        load_dataset(folder, size=8)
    lazy = FolderImages((broken,), np.zeros(1, int), 3, 8)
    with pytest.raises(DatasetError, match=r"x\.jpg cannot be decoded: .*truncated"):
        lazy.verified()
    batches = train_batches(
        lazy, batch=1, epoch=0, seed=0, sizes_of_step=lambda step: (8,), augment=Augment()
    )
    with pytest.raises(DatasetError, match=r"x\.jpg cannot be decoded: .*truncated"):
        next(batches)


@pytest.mark.parametrize("side", [10_000, 20_000])
@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_a_decompression_bomb_is_an_error(tmp_path: Path, side: int, memory_bytes: int) -> None:
    folder = write_classes(tmp_path, CATS_AND_DOGS)
    path = bomb(folder / "cat" / "000.png", side)
    with pytest.raises(DatasetError, match=f"{path} cannot be decoded: .*bomb"):
        load_dataset(folder, size=8, memory_bytes=memory_bytes)


def test_formats_that_run_programs_are_not_opened(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, CATS_AND_DOGS)
    (folder / "cat" / "000.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(DatasetError, match=r"000\.png is not an image"):
        load_dataset(folder, size=8)


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, CATS_AND_DOGS)
    os.symlink(tmp_path / "gone.png", folder / "dog" / "x.png")
    with pytest.raises(DatasetError, match=r"x\.png cannot be read: No such file") as error:
        load_dataset(folder, size=8, channels=3)
    assert "\n" not in error.value.message


def test_links_to_folders_are_followed_and_each_is_entered_once(tmp_path: Path) -> None:
    write_classes(tmp_path / "elsewhere", {"more": 3})
    data = write_classes(tmp_path / "data", {"cat": 5, "dog": 5}, seed=50)
    (data / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (data / "cat" / "again").symlink_to(data / "cat")
    (tmp_path / "elsewhere" / "more" / "round").symlink_to(tmp_path / "elsewhere")
    dataset = load_dataset(data, size=8, holdout=2)
    assert np.bincount(dataset.train.labels).sum() == 11
    assert sorted(path.name for path in dataset.files if "more" in path.parts) == [
        *("000.png", "001.png", "002.png"),
    ]


def test_photographs_that_are_not_read_are_not_passed_over(tmp_path: Path) -> None:
    data = write_classes(tmp_path, {"cat": 5, "dog": 5})
    (data / "dog" / "IMG_1.HEIC").touch()
    with pytest.raises(DatasetError, match=r"IMG_1\.HEIC is a photograph in a format that is not"):
        load_dataset(data, size=8)


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, CATS_AND_DOGS)
    os.mkfifo(folder / "cat" / "0.png")
    with pytest.raises(DatasetError, match=r"0\.png is no file"):
        load_dataset(folder, size=8)


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, CATS_AND_DOGS)
    (folder / "owl").mkdir()
    (folder / "owl" / "a.txt").write_text("hoot")
    with pytest.raises(DatasetError, match=f"class folder {folder / 'owl'} holds no images"):
        load_dataset(folder, size=8)


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", noise(9, 9))
    with pytest.raises(DatasetError, match=f"{tmp_path} has no class folders") as error:
        load_dataset(tmp_path, size=8)
    assert "PATH/CLASS/IMAGE" in error.value.hint


def test_parts_with_different_classes_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 3, "b": 3, "c": 3})
    write_classes(tmp_path / "val", {"a": 1, "b": 1, "d": 1})
    with pytest.raises(DatasetError, match="only train has 'c' and only val has 'd'"):
        load_dataset(tmp_path, size=8)


@pytest.mark.parametrize("files", [[], ["a.png"]])
def test_a_validation_part_without_classes_is_not_passed_over(
    tmp_path: Path, files: list[str]
) -> None:
    write_classes(tmp_path / "train", CATS_AND_DOGS)
    (tmp_path / "val").mkdir()
    for name in files:
        write_image(tmp_path / "val" / name, noise(8, 8))
    with pytest.raises(DatasetError, match=f"{tmp_path / 'val'} has no class folders"):
        load_dataset(tmp_path, size=8)


@pytest.mark.parametrize("how", ["copy", "link"])
def test_a_picture_in_two_parts_is_named(tmp_path: Path, how: str) -> None:
    write_classes(tmp_path / "train", CATS_AND_DOGS)
    write_classes(tmp_path / "val", {"cat": 2, "dog": 2}, seed=500)
    assert len(load_dataset(tmp_path, size=8).val) == 4
    one, other = tmp_path / "train" / "cat" / "003.png", tmp_path / "val" / "cat" / "mine.png"
    shutil.copy(one, other) if how == "copy" else other.symlink_to(one)
    with pytest.raises(DatasetError) as error:
        load_dataset(tmp_path, size=8)
    assert error.value.message == f"the same picture is in two parts: {other} is {one}"


def test_pictures_that_only_end_alike_may_be_in_two_parts(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", CATS_AND_DOGS)
    write_classes(tmp_path / "val", {"cat": 2, "dog": 2}, seed=500)
    for part, level in (("train", 0), ("val", 9)):
        pixels = np.zeros((60, 90, 3), np.uint8)
        pixels[0] = level
        write_image(tmp_path / part / "cat" / "z.bmp", pixels[::-1])  # the last row comes first
    assert len(load_dataset(tmp_path, size=8).val) == 5


def test_a_class_of_which_nothing_can_be_held_out_is_named(tmp_path: Path) -> None:
    dataset = load_dataset(write_classes(tmp_path / "three", {"cat": 40, "dog": 3}), size=8)
    assert np.bincount(dataset.val.labels).tolist() == [7, 1]
    with pytest.raises(DatasetError, match="class 'dog' has no image among the images held out"):
        load_dataset(write_classes(tmp_path / "two", {"cat": 40, "dog": 2}), size=8)


def test_two_validation_parts_are_refused(tmp_path: Path) -> None:
    for part in ("train", "val", "validation"):
        write_classes(tmp_path / part, {"a": 2, "b": 2})
    with pytest.raises(DatasetError, match="several validation parts: val, validation"):
        load_dataset(tmp_path, size=8)


def test_one_class_or_one_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has 1 class \(cat\)"):
        load_dataset(write_classes(tmp_path / "one", {"cat": 5}), size=8)
    with pytest.raises(DatasetError, match="class 'dog' has 1 training image"):
        load_dataset(write_classes(tmp_path / "two", {"cat": 5, "dog": 1}), size=8)


@pytest.mark.parametrize("names", [("Training", "Testing"), ("train", "val"), ("TEST", "train")])
def test_parts_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "a.png")
    with pytest.raises(DatasetError, match="like parts of a set"):
        read_folder(tmp_path)

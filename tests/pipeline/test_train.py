import numpy as np
import pytest

from ofatvm.cli.tune import default_resolutions
from ofatvm.data import ArrayImages
from ofatvm.errors import CheckpointError
from ofatvm.pipeline.table import fewest_subnets
from ofatvm.pipeline.train import check_out, make_exam, sample_pictures, some
from ofatvm.spaces import find_space
from tests.supernet.toy import TOY, bars, toy_dataset


def by_class(images):
    """The same pictures sorted by class, as image folders give them."""
    return images.take(np.argsort(images.labels, kind="stable"))


def test_every_part_of_what_is_drawn_from_a_sorted_set_has_all_classes():
    drawn = some(by_class(bars(600, 1)), 300, TOY, seed=0)
    assert len(drawn) == 300
    for start in range(0, 300, 50):
        counts = np.bincount(drawn.labels[start : start + 50], minlength=3)
        assert counts.min() >= 5
    again = some(by_class(bars(600, 1)), 300, TOY, seed=0)
    np.testing.assert_array_equal(drawn.pixels, again.pixels)
    assert len(np.unique(drawn.pixels.reshape(300, -1), axis=0)) == 300


def test_labels_stay_with_their_pictures():
    images = by_class(bars(60, 1))
    drawn = some(images, 60, TOY, seed=3)
    known = {
        pixels.tobytes(): label for pixels, label in zip(images.pixels, images.labels, strict=True)
    }
    assert all(known[p.tobytes()] == n for p, n in zip(drawn.pixels, drawn.labels, strict=True))


def test_large_pictures_are_scaled_to_twice_the_resolution():
    pixels = np.random.default_rng(0).integers(0, 255, (4, 100, 90, 1)).astype(np.uint8)
    large = ArrayImages(pixels, np.arange(4) % 3)
    assert some(large, 4, TOY, 0).pixels.shape == (4, 24, 24, 1)


def test_calibration_images_are_of_the_training_part_and_never_held_out():
    dataset = toy_dataset()
    exam = make_exam(dataset, TOY, 0)
    train = {pixels.tobytes() for pixels in dataset.train.pixels}
    val = {pixels.tobytes() for pixels in dataset.val.pixels}
    assert {pixels.tobytes() for pixels in exam.calibration.pixels} <= train
    assert {pixels.tobytes() for pixels in exam.images.pixels} == val


def test_samples_are_one_picture_a_class_that_is_there():
    images = bars(60, 1)
    assert sorted(sample_pictures(images, TOY, 0)) == [f"samples/0{k}-0.png" for k in range(3)]
    some_classes = images.take(np.flatnonzero(images.labels != 1))
    assert sorted(sample_pictures(some_classes, TOY, 0)) == ["samples/00-0.png", "samples/02-0.png"]


@pytest.mark.parametrize("names", [["diary.txt"], ["training", "README.md", "setup.py"], [".git"]])
def test_a_folder_of_something_else_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match="holds something else"):
        check_out(tmp_path)


def test_a_training_that_was_cut_at_once_goes_on(tmp_path):
    check_out(tmp_path / "new")
    (tmp_path / "training").mkdir()
    check_out(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["training/cats/1.png", "samples/mine.png", "README.md"],
        ["training/1.png"],
        ["training/.lock", "README.md"],
        ["training/training.safetensors", "samples/mine.png"],
        ["supernet.json", "samples/mine.png"],
    ],
)
def test_pictures_that_look_like_a_training_are_left_alone(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="holds something else"):
        check_out(tmp_path)


def test_what_a_kill_left_half_written_is_no_hindrance(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "training.safetensors").touch()
    (tmp_path / "training" / ".lock").touch()
    (tmp_path / "training" / ".table.jsonl.4242").touch()
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "00-0.png").touch()
    (tmp_path / ".weights.safetensors.4242").touch()
    check_out(tmp_path)
    (tmp_path / ".diary.txt.4242").touch()
    with pytest.raises(CheckpointError, match="holds something else"):
        check_out(tmp_path)


def test_a_finished_supernet_without_a_training_is_replaced_only_afresh(tmp_path):
    for name in ("supernet.json", "weights.safetensors", "README.md"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="holds a finished supernet") as caught:
        check_out(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert "another --out, or --fresh" in caught.value.hint
    check_out(tmp_path, fresh=True)
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "training.safetensors").touch()
    check_out(tmp_path)


def test_a_file_is_no_place_for_a_supernet(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match="cannot be a folder"):
            check_out(path)


def test_a_table_needs_eight_subnets_a_resolution():
    assert fewest_subnets(TOY) == 40
    assert fewest_subnets(find_space("mbv3w1.0")) == 200


def test_tuning_covers_all_resolutions_of_a_space_with_few():
    assert default_resolutions(find_space("small28")) == (20, 24, 28)
    assert default_resolutions(find_space("mbv3w1.0")) == (224,)

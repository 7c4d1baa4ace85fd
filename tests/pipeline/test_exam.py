from dataclasses import replace

import numpy as np

from ofatvm.data import ArrayImages, resized
from ofatvm.pipeline.exam import like_the_others, make_exam, sample_pictures, say_limits, some
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


def test_long_pictures_take_no_more_memory_than_their_squares():
    pixels = np.random.default_rng(0).integers(0, 255, (700, 16, 90, 1)).astype(np.uint8)
    asked = []

    class Strips(ArrayImages):
        def batch(self, indices, size):
            asked.append(len(indices))
            return super().batch(indices, size)

    strips = Strips(pixels, np.arange(700) % 3)
    drawn = some(strips, 700, TOY, 0)
    assert drawn.pixels.shape == (700, 16, 16, 1)
    assert max(asked) <= 256
    order = np.random.default_rng([0, 5]).permutation(700)
    np.testing.assert_array_equal(drawn.pixels, strips.batch(order, 16))
    np.testing.assert_array_equal(drawn.labels, strips.labels[order])


def test_test_pictures_are_scaled_as_those_that_the_folder_carries():
    exam = make_exam(toy_dataset(), TOY, 0)
    pixels = np.random.default_rng(0).integers(0, 255, (4, 30, 33, 1)).astype(np.uint8)
    other = like_the_others(ArrayImages(pixels, np.arange(4) % 3), exam)
    np.testing.assert_array_equal(other.batch(np.arange(4), 10), resized(resized(pixels, 12), 10))
    assert like_the_others(exam.images, exam) is exam.images


def test_calibration_images_are_of_the_training_part_and_never_held_out():
    dataset = toy_dataset()
    exam = make_exam(dataset, TOY, 0)
    train = {pixels.tobytes() for pixels in dataset.train.pixels}
    val = {pixels.tobytes() for pixels in dataset.val.pixels}
    assert {pixels.tobytes() for pixels in exam.calibration.pixels} <= train
    assert {pixels.tobytes() for pixels in exam.images.pixels} == val


def test_copies_of_held_out_pictures_are_said_where_they_are_many():
    few, many = (replace(toy_dataset(), copies=copies) for copies in (1, 90))
    assert len(many.val) < 900
    said = []
    for dataset in (few, many):
        say_limits(make_exam(dataset, TOY, 0), dataset, said.append)
    assert [(event.level, event.text.split(" are in ")[0]) for event in said] == [
        ("warning", f"90 of the {len(many.val)} held-out pictures")
    ]


def test_samples_are_one_picture_a_class_that_is_there():
    images = bars(60, 1)
    assert sorted(sample_pictures(images, TOY, 0)) == [f"samples/0{k}-0.png" for k in range(3)]
    some_classes = images.take(np.flatnonzero(images.labels != 1))
    assert sorted(sample_pictures(some_classes, TOY, 0)) == ["samples/00-0.png", "samples/02-0.png"]

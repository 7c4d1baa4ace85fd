"""Batches follow from seed, epoch and step; the thread that makes them ends with its iterator."""

from __future__ import annotations

import gc
import threading
import time
from itertools import islice

import numpy as np
import pytest

from ofatvm.data import (
    ArrayImages,
    Augment,
    Batch,
    eval_batches,
    resized,
    steps_per_epoch,
    train_batches,
)
from ofatvm.data.augment import erase, shifted
from ofatvm.errors import DatasetError
from tests.data.making import noise, numbered, pixels_of

PLAIN = Augment(flip=False, shift=0)
ALL = Augment(flip=True, shift=2, erase=0.5, crop=(0.4, 1.0))


def epoch_of(images: ArrayImages, augment: Augment = PLAIN, **changes: object) -> list[Batch]:
    options = {"batch": 4, "epoch": 0, "seed": 0, "sizes_of_step": lambda step: (8,)} | changes
    return list(train_batches(images, augment=augment, **options))  # type: ignore[arg-type]


def same(one: list[Batch], two: list[Batch]) -> bool:
    return len(one) == len(two) and all(
        a.step == b.step
        and np.array_equal(pixels_of(a), pixels_of(b))
        and np.array_equal(a.labels, b.labels)
        for a, b in zip(one, two, strict=True)
    )


def wait_until_ended(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(timeout=5)
        assert not thread.is_alive()


def makers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_an_epoch_shows_each_image_once_with_its_label() -> None:
    images = numbered(20)
    batches = epoch_of(images)
    seen = np.concatenate([pixels_of(batch)[:, 0, 0, 0] for batch in batches])
    assert [batch.step for batch in batches] == [0, 1, 2, 3, 4]
    assert sorted(seen.tolist()) == list(range(20))
    assert seen.tolist() != list(range(20))
    assert np.array_equal(np.concatenate([b.labels for b in batches]), images.labels[seen])


def test_the_order_is_of_seed_and_epoch() -> None:
    order = np.random.default_rng([5, 7]).permutation(20)
    seen = [pixels_of(b)[:, 0, 0, 0] for b in epoch_of(numbered(20), seed=5, epoch=7)]
    assert np.array_equal(np.concatenate(seen), order)


def test_other_seeds_and_epochs_give_other_batches() -> None:
    images = numbered(20)
    first = epoch_of(images)
    assert same(first, epoch_of(images))
    assert not same(first, epoch_of(images, seed=1))
    assert not same(first, epoch_of(images, epoch=1))


def test_a_last_partial_batch_is_dropped() -> None:
    assert [len(batch.labels) for batch in epoch_of(numbered(11))] == [4, 4]
    assert steps_per_epoch(11, 4) == 2


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    assert [len(batch.labels) for batch in epoch_of(numbered(3))] == [3]
    assert steps_per_epoch(3, 4) == 1


@pytest.mark.parametrize("start", [0, 1, 3, 5])
def test_a_resumed_epoch_goes_on_as_if_never_stopped(start: int) -> None:
    images = ArrayImages(noise(20, 9, 9, 3), np.arange(20))
    sizes = {"sizes_of_step": lambda step: ((5, 9, 7)[step % 3],)}
    whole = epoch_of(images, ALL, **sizes)
    assert len(whole) == 5
    assert same(whole[start:], epoch_of(images, ALL, start_step=start, **sizes))


def test_parts_of_a_batch_are_disjoint_and_make_the_whole() -> None:
    whole = epoch_of(numbered(20))
    parts = [epoch_of(numbered(20), part=(rank, 3)) for rank in range(3)]
    for step, batch in enumerate(whole):
        held = [part[step].labels for part in parts]
        assert [len(labels) for labels in held] == [2, 1, 1]
        assert sorted(np.concatenate(held)) == sorted(batch.labels)


def test_parts_of_a_batch_are_augmented_each_in_its_own_way() -> None:
    images = ArrayImages(np.repeat(noise(1, 9, 9, 1), 20, axis=0), np.zeros(20, int))
    one, other = (epoch_of(images, ALL, part=(rank, 2)) for rank in range(2))
    assert not same(one, other)


def test_augmentation_differs_from_step_to_step_and_between_epochs() -> None:
    images = ArrayImages(np.repeat(noise(1, 9, 9, 1), 4, axis=0), np.zeros(4, int))
    one = epoch_of(images, ALL, batch=2)
    assert not np.array_equal(pixels_of(one[0]), pixels_of(one[1]))
    assert not np.array_equal(
        pixels_of(one[0]), pixels_of(epoch_of(images, ALL, batch=2, epoch=1)[0])
    )


def test_each_step_has_the_size_it_is_given() -> None:
    images = ArrayImages(noise(12, 9, 9, 1), np.arange(12))
    sizes = [5, 9, 7]
    batches = epoch_of(images, sizes_of_step=lambda step: (sizes[step],))
    assert [pixels_of(batch).shape for batch in batches] == [(4, side, side, 1) for side in sizes]
    order = np.random.default_rng([0, 0]).permutation(12)
    assert np.array_equal(pixels_of(batches[0]), resized(images.pixels[order[:4]], 5))


def test_a_step_of_several_sizes_has_the_same_images_at_each() -> None:
    images = ArrayImages(noise(4, 9, 9, 1), np.arange(4))
    (batch,) = epoch_of(images, ALL, sizes_of_step=lambda step: (9, 5, 9, 7))
    assert list(batch.images) == [9, 5, 7]
    assert np.array_equal(batch.images[5], resized(batch.images[9], 5))
    assert np.array_equal(batch.images[7], resized(batch.images[9], 7))


def test_images_that_are_not_square_are_cropped() -> None:
    images = ArrayImages(noise(4, 8, 13, 1), np.arange(4))
    order = np.random.default_rng([0, 0]).permutation(4)
    assert np.array_equal(pixels_of(epoch_of(images)[0]), images.pixels[order, :, 2:10])


def test_flips_mirror_about_half_of_the_images() -> None:
    images = ArrayImages(noise(400, 6, 6, 1), np.arange(400))
    (batch,) = epoch_of(images, Augment(shift=0), batch=400, sizes_of_step=lambda step: (6,))
    originals = images.pixels[batch.labels]
    kept = (pixels_of(batch) == originals).all(axis=(1, 2, 3))
    mirrored = (pixels_of(batch) == originals[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_shifts_move_images_and_fill_with_black() -> None:
    pixels = noise(4, 5, 6, 3) | 1
    moved = shifted(pixels, np.array([[0, 0], [2, 0], [-1, 3], [1, -2]]))
    assert np.array_equal(moved[0], pixels[0])
    assert np.array_equal(moved[1, 2:], pixels[1, :3])
    assert not moved[1, :2].any()
    assert np.array_equal(moved[2, :4, 3:], pixels[2, 1:, :3])
    assert not moved[2, 4:].any()
    assert not moved[2, :, :3].any()
    assert np.array_equal(moved[3, 1:, :4], pixels[3, :4, 2:])
    assert not moved[3, :1].any()
    assert not moved[3, :, 4:].any()


def test_every_shift_up_to_the_limit_happens() -> None:
    dot = np.zeros((600, 9, 9, 1), np.uint8)
    dot[:, 4, 4] = 255
    images = ArrayImages(dot, np.zeros(600, int))
    (batch,) = epoch_of(images, Augment(flip=False), batch=600, sizes_of_step=lambda step: (9,))
    _, rows, columns, _ = np.nonzero(pixels_of(batch))
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {
        (row, column) for row in range(2, 7) for column in range(2, 7)
    }


def test_erased_rectangles_have_the_mean_colour_and_a_share_of_the_area() -> None:
    pixels = np.zeros((500, 20, 20, 3), np.uint8)
    pixels[:] = noise(500, 1, 1, 3) // 2 * 2
    before = pixels.copy()
    colour = np.rint(pixels.mean(axis=(0, 1, 2)))
    erase(pixels, 0.4, np.random.default_rng(0))
    changed = (pixels != before).any(axis=3)
    hit = changed.any(axis=(1, 2))
    assert 150 < hit.sum() < 250
    assert (pixels[changed] == colour).all()
    for mask in changed[hit]:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        assert mask.sum() == rows.sum() * columns.sum()
        assert 0.01 <= mask.mean() <= 0.36


def test_crops_show_part_of_the_image() -> None:
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (50, 24, 1))[..., None]
    images = ArrayImages(ramp, np.zeros(50, int))
    cropping = Augment(flip=False, shift=0, crop=(0.1, 0.3))
    (batch,) = epoch_of(images, cropping, batch=50, sizes_of_step=lambda step: (24,))
    spans = np.ptp(pixels_of(batch)[:, 12, :, 0].astype(int), axis=1)
    # 10 to 30 % of the area at aspects 3/4 to 4/3 is 7 to 15 of 24 columns.
    assert spans.min() >= 60
    assert spans.max() <= 150
    assert len(np.unique(spans)) > 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shift": -1}, "shift must be at least 0 pixels, got -1"),
        ({"erase": 1.5}, "erase must be .* got 1.5"),
        ({"crop": (0.0, 1.0)}, r"crop must be .* got \(0\.0, 1\.0\)"),
        ({"crop": (0.5, 0.2)}, r"got \(0\.5, 0\.2\)"),
        ({"crop": (0.5, 1.2)}, r"got \(0\.5, 1\.2\)"),
    ],
)
def test_impossible_augmentations_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        Augment(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"start_step": 6}, "start_step must be 0 to 5, got 6"),
        ({"start_step": -1}, "start_step must be 0 to 5, got -1"),
        ({"batch": 0}, "got 0 of 20"),
        ({"seed": -1}, "got -1 and 0"),
        ({"augment": Augment(shift=8)}, "shift of up to 8 pixels would move images of 8 pixels"),
    ],
)
def test_impossible_requests_are_refused_at_the_call(changes: dict[str, object], said: str) -> None:
    options = {
        "batch": 4,
        "epoch": 0,
        "seed": 0,
        "sizes_of_step": lambda step: (8,),
        "augment": PLAIN,
    } | changes
    with pytest.raises(DatasetError, match=said):
        train_batches(numbered(20), **options)  # type: ignore[arg-type]


def test_batches_are_made_two_ahead_and_no_further() -> None:
    asked: list[int] = []

    def sizes(step: int) -> tuple[int, ...]:
        asked.append(step)
        return (8,)

    batches = train_batches(
        numbered(40), batch=4, epoch=0, seed=0, sizes_of_step=sizes, augment=PLAIN
    )
    assert not asked
    next(batches)
    wait = time.monotonic() + 5
    while len(asked) < 3 and time.monotonic() < wait:
        time.sleep(0.01)
    time.sleep(0.1)
    assert asked == [0, 1, 2]
    batches.close()


@pytest.mark.parametrize("end", ["close", "collect", "exhaust"])
def test_the_thread_ends_with_the_iterator(end: str) -> None:
    before = makers()
    batches = train_batches(
        numbered(40), batch=4, epoch=0, seed=0, sizes_of_step=lambda step: (8,), augment=PLAIN
    )
    next(batches)
    started = [thread for thread in makers() if thread not in before]
    assert len(started) == 1
    if end == "close":
        batches.close()
    elif end == "collect":
        del batches
        gc.collect()
    else:
        assert len(list(batches)) == 9
    wait_until_ended(started)


def test_an_error_in_the_thread_surfaces_where_the_batch_is_awaited() -> None:
    def sizes(step: int) -> tuple[int, ...]:
        if step == 2:
            raise DatasetError("x/3.png cannot be decoded")
        return (8,)

    before = makers()
    batches = train_batches(
        numbered(20), batch=4, epoch=0, seed=0, sizes_of_step=sizes, augment=PLAIN
    )
    assert [batch.step for batch in islice(batches, 2)] == [0, 1]
    with pytest.raises(DatasetError, match=r"x/3\.png cannot be decoded"):
        next(batches)
    wait_until_ended([thread for thread in makers() if thread not in before])


def test_evaluation_sees_everything_in_order() -> None:
    images = ArrayImages(noise(10, 8, 8, 1), np.arange(10))
    batches = list(eval_batches(images, batch=4, size=6))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert np.concatenate([labels for _, labels in batches]).tolist() == list(range(10))
    assert np.array_equal(np.concatenate([p for p, _ in batches]), resized(images.pixels, 6))
    with pytest.raises(DatasetError, match="got 0 of 10"):
        next(eval_batches(images, batch=0, size=6))

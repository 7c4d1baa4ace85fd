"""Batches in the order that seed and epoch fix, made in a thread ahead of their use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from ofatvm.data.augment import Augment, augmented
from ofatvm.data.dataset import Images
from ofatvm.data.resize import resized
from ofatvm.errors import DatasetError

AHEAD = 2


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One step's images, (n, size, size, c) uint8 at each of its sizes, and labels (n,) int64."""

    step: int
    images: Mapping[int, np.ndarray] = field(repr=False)
    labels: np.ndarray = field(repr=False)


def steps_per_epoch(count: int, batch: int) -> int:
    """Full batches in `count` images; one smaller batch when there are too few for any."""
    if count < 1 or batch < 1:
        raise DatasetError(f"a batch needs at least 1 image, got {batch} of {count}")
    return max(1, count // batch)


def train_batches(
    images: Images,
    *,
    batch: int,
    epoch: int,
    seed: int,
    sizes_of_step: Callable[[int], Iterable[int]],
    augment: Augment,
    start_step: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Generator[Batch, None, None]:
    """One epoch's shuffled, augmented batches from `start_step` on, each at all of its sizes.

    A batch depends on `seed`, `epoch` and its step alone, so a resumed run gets what it missed.
    `part` (k, n) is the kth of n equal parts of every batch: only its images are read.
    A thread makes them two ahead (`sizes_of_step` is called in it); it ends when the iterator is
    closed or collected, and what goes wrong in it is raised here.
    """
    steps = steps_per_epoch(len(images), batch)
    if not 0 <= start_step <= steps:
        raise DatasetError(f"start_step must be 0 to {steps}, got {start_step}")
    if seed < 0 or epoch < 0:
        raise DatasetError(f"seed and epoch must be at least 0, got {seed} and {epoch}")
    if augment.shift >= images.native:
        raise DatasetError(
            f"a shift of up to {augment.shift} pixels would move images of {images.native} pixels "
            "out of sight",
            hint="give a smaller --shift",
        )
    order = np.random.default_rng([seed, epoch]).permutation(len(images))
    first, parts = part

    def make(step: int) -> Batch:
        rows = order[step * batch : (step + 1) * batch][first::parts]
        # numpy takes [seed, epoch] and [seed, epoch, 0] for the same seed: steps count from 1.
        rng = np.random.default_rng([seed, epoch, step + 1, first])
        pixels = augmented(images, rows, augment, rng)
        scaled = {size: resized(pixels, size) for size in dict.fromkeys(sizes_of_step(step))}
        return Batch(step, scaled, images.labels[rows])

    return made_ahead(make, range(start_step, steps))


def eval_batches(
    images: Images, *, batch: int, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All images in order at one size, with their labels; the last batch may be smaller."""
    steps_per_epoch(len(images), batch)
    for start in range(0, len(images), batch):
        rows = np.arange(start, min(len(images), start + batch))
        yield images.batch(rows, size), images.labels[rows]


def made_ahead(make: Callable[[int], Batch], steps: range) -> Generator[Batch, None, None]:
    """`make(step)` for each step in order, made in a thread while the consumer works."""
    ready: SimpleQueue[Batch | BaseException] = SimpleQueue()
    free = threading.Semaphore(AHEAD)
    stop = threading.Event()
    thread = threading.Thread(
        target=produce, args=(make, steps, ready, free, stop), name="batches", daemon=True
    )
    thread.start()
    try:
        for _ in steps:
            made = ready.get()
            if isinstance(made, BaseException):
                raise made
            free.release()
            yield made
    finally:
        stop.set()
        free.release()


def produce(
    make: Callable[[int], Batch],
    steps: range,
    ready: SimpleQueue[Batch | BaseException],
    free: threading.Semaphore,
    stop: threading.Event,
) -> None:
    """The thread's work; it holds nothing of the iterator, so that one can be collected."""
    for step in steps:
        free.acquire()
        if stop.is_set():
            return
        try:
            ready.put(make(step))
        except BaseException as error:
            ready.put(error)
            return

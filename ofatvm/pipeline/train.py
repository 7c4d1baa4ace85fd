"""From images to a supernet folder: train, evaluate some hundreds of subnets, fit, write."""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ofatvm.arch import Arch, ArchSpace
from ofatvm.data import ArrayImages, Dataset, Images
from ofatvm.errors import CheckpointError, DatasetError, shorten
from ofatvm.events import Event, Notice, ignore
from ofatvm.files import intended_name, remove_leftovers
from ofatvm.lock import LOCK, lock_folder
from ofatvm.measurement import now
from ofatvm.pipeline.table import examined, table_archs, table_csv
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.predict.accuracy_report import evaluate_fit, paired_noise
from ofatvm.supernet.card import supernet_card
from ofatvm.supernet.checkpoint import save_weights
from ofatvm.supernet.evaluate import Exam
from ofatvm.supernet.folder import (
    ACCURACY_MODEL,
    ACCURACY_TABLE,
    CALIBRATION,
    CARD,
    EVALUATION,
    FILE_NAME,
    MAX_JSON_BYTES,
    SAMPLE_NAME,
    WEIGHTS,
    SupernetFolder,
    packed_images,
    write_supernet,
)
from ofatvm.supernet.net import Supernet
from ofatvm.supernet.processes import joined
from ofatvm.supernet.recipe import RunConfig
from ofatvm.supernet.train import Trained, run_key, train
from ofatvm.supernet.training_state import FILE_NAME as STATE
from ofatvm.text import is_line

CALIBRATION_IMAGES = 2000
EVALUATION_IMAGES = 10_000
EXAM_BYTES = 256 << 20  # of raw pixels, for images of one kind in memory
SHIPPED_BYTES = 64 << 20  # of raw pixels, for images of one kind that a folder carries
WATCH_CALIBRATION, WATCH_IMAGES = 1000, 2000
HELD_OUT_SHARE = 0.2
RANDOM_TESTED = 50
SAMPLE_CLASSES = 10
WORK, SAMPLES, TABLE = "training", "samples", "table.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """What a training leaves beside the weights: names, and how many subnets it evaluates."""

    name: str
    licence: str = "not stated; ask the source of the images"
    table_size: int = 400


def train_supernet(
    dataset: Dataset,
    space: ArchSpace,
    config: RunConfig,
    out: Path,
    leaving: Leaving,
    *,
    test: Images | None = None,
    fresh: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> SupernetFolder | None:
    """Train a supernet of `space` and write its folder to `out`.

    Interrupted at any moment and called again with the same arguments, it goes on: training from
    its last checkpoint, the table from the last subnet evaluated. `test` images are for reporting
    alone. None in all but the first of several processes, which leave when training is over.
    BusyError if another process trains into `out`.
    """
    check_out(out, fresh=fresh)
    _check_texts(dataset, leaving)
    archs, uniform = table_archs(space, leaving.table_size, config.seed)
    work = out / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the supernet {out}: {error.strerror}", hint="give another --out"
        ) from None
    exam = make_exam(dataset, space, config.seed)
    with ExitStack() as held:
        with joined() as processes:
            if processes.first:
                held.enter_context(lock_folder(work, "training into"))
                _say_fewer(exam, dataset, on_event)
                for place in (out, work, out / SAMPLES):
                    remove_leftovers(place)
            trained = train(
                dataset,
                space,
                config,
                work,
                watch=_watch(exam, space, config.seed),
                processes=processes,
                fresh=fresh,
                on_event=on_event,
            )
            if not processes.first:
                return None
        weights = work / WEIGHTS
        key = run_key(dataset, space, config)
        trained.supernet.origin = f"trained on {dataset.name} ({config.recipe}, {key})"
        save_weights(weights, trained.supernet)
        correct = examined(weights, space, exam, archs, work / TABLE, on_event=on_event)
        top1 = 100 * correct.mean(axis=1)
        report: dict[str, Any] | None = None
        try:
            model, report = fit_accuracy(space, archs, correct, uniform, seed=config.seed)
            source = (
                f"{len(archs)} subnets of {leaving.name}, evaluated by ofatvm train on "
                f"{correct.shape[1]} held-out images of {dataset.name}"
            )
            about = {"source": source, "licence": leaving.licence, "held_out": report}
            model.save(work / ACCURACY_MODEL, about)
        except DatasetError as error:  # the supernet is worth keeping all the same
            on_event(Notice("warning", f"no accuracy model: {error.message}"))
        figures: dict[str, Any] = {
            "largest_percent": float(top1[archs.index(space.largest())]),
            "smallest_percent": float(top1[archs.index(space.smallest())]),
            "evaluated_on": f"{correct.shape[1]:,} images held out of the training part",
            "accuracy_model": report,
        }
        if test is not None:
            on_test = replace(exam, images=test)
            figures["test"] = reported(
                weights, space, on_test, work / TABLE, config.seed, on_event=on_event
            )
        folder = _described(dataset, space, config, out, leaving, trained, figures)
        contents = {
            WEIGHTS: weights.read_bytes(),
            ACCURACY_TABLE: table_csv(archs, correct, uniform),
            CALIBRATION: packed_images(*_carried(exam.calibration)),
            EVALUATION: packed_images(*_carried(exam.images)),
            **sample_pictures(exam.images, space, config.seed),
            CARD: supernet_card(folder).encode(),
        }
        if report is not None:
            contents[ACCURACY_MODEL] = (work / ACCURACY_MODEL).read_bytes()
        return write_supernet(folder, contents)


def fit_accuracy(
    space: ArchSpace, archs: Sequence[Arch], correct: np.ndarray, uniform: np.ndarray, *, seed: int
) -> tuple[AccuracyModel, dict[str, Any]]:
    """A model fitted to the table, (archs, images) bool, and its errors on held-out subnets.

    A table that cannot be fitted, as when all subnets are equally good, is a DatasetError.
    """
    top1, rows = 100 * correct.mean(axis=1), space.to_rows(archs)
    report = evaluate_fit(
        rows,
        top1,
        uniform,
        space,
        held_out=HELD_OUT_SHARE,
        seed=seed,
        noise_percent=paired_noise(correct),
    )
    return AccuracyModel.fit(rows, top1, uniform, space, seed=seed), report.to_dict()


def _check_texts(dataset: Dataset, leaving: Leaving) -> None:
    """Refuse before the training what the folder could not be read with after it."""
    for what, text, hint in (
        ("the supernet's name", leaving.name, "give another --name"),
        ("the licence", leaving.licence, "give another --licence"),
        ("the name of the pictures", dataset.name, "rename what --data names"),
    ):
        if not is_line(text):
            raise CheckpointError(
                f"{what} must be one line of printable text, got {shorten(ascii(text))}", hint=hint
            )
    size_bytes = len(json.dumps(dataset.classes))
    if size_bytes > MAX_JSON_BYTES // 2:
        raise CheckpointError(
            f"the names of {len(dataset.classes)} classes take {size_bytes} bytes, {FILE_NAME} has "
            f"room for {MAX_JSON_BYTES // 2}",
            hint="give shorter names",
        )


def check_out(out: Path, *, fresh: bool = False) -> None:
    """Refuse a folder that holds something else than a training or a supernet.

    Picture folders often have a `training` and a `samples` of their own, so that these count by
    what is in them. Unless all begins `fresh`, so is a supernet whose training left no state: it
    may be anybody's, and the next training would end by replacing it.
    """
    if any(path.exists() and not path.is_dir() for path in (out, *out.absolute().parents)):
        raise CheckpointError(f"{out} cannot be a folder", hint="give another --out")
    known = {WORK, SAMPLES, FILE_NAME, WEIGHTS, ACCURACY_MODEL, ACCURACY_TABLE}
    known |= {CALIBRATION, EVALUATION, CARD}
    found = {intended_name(path.name) for path in out.iterdir()} if out.exists() else set()
    odd = found - known if found & {WORK, FILE_NAME} else found
    inside = {intended_name(path.name) for path in _entries(out / WORK)}
    odd |= {f"{WORK}/{name}" for name in inside - {STATE, WEIGHTS, TABLE, ACCURACY_MODEL, LOCK}}
    samples = {f"{SAMPLES}/{intended_name(path.name)}" for path in _entries(out / SAMPLES)}
    odd |= {name for name in samples if not SAMPLE_NAME.fullmatch(name)}
    if FILE_NAME not in found and STATE not in inside:
        odd |= found - {WORK}  # a training leaves no more before its first checkpoint
    if odd:
        raise CheckpointError(
            f"{out} holds something else than a supernet: {min(odd)}", hint="give another --out"
        )
    if FILE_NAME in found and STATE not in inside and not fresh:
        raise CheckpointError(
            f"{out} holds a finished supernet and no state of a training that could continue",
            hint="give another --out, or --fresh to replace it",
        )


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def make_exam(dataset: Dataset, space: ArchSpace, seed: int) -> Exam:
    """Calibration images of the training part, and the held-out images: at most 10,000.

    Where the pictures are small they are just those that the folder carries, so that whoever has
    the folder measures the same.
    """
    return Exam(
        some(dataset.train, CALIBRATION_IMAGES, space, seed),
        some(dataset.val, EVALUATION_IMAGES, space, seed + 1),
        dataset.mean,
        dataset.std,
    )


def some(images: Images, count: int, space: ArchSpace, seed: int) -> ArrayImages:
    """At most `count` images in memory, drawn without repetition, in the order they were drawn.

    Sets are often sorted by class; drawn so, every part of the result is of all classes. Pictures
    of more than twice the space's resolution are scaled to that.
    """
    size = min(images.native, 2 * space.resolutions[-1])
    fits = EXAM_BYTES // (size * size * space.in_channels)
    chosen = np.random.default_rng([seed, 5]).permutation(len(images))[: min(count, fits)]
    if isinstance(images, ArrayImages) and size == images.native:
        return images.take(chosen)
    return ArrayImages(images.batch(chosen, size), images.labels[chosen])


def _say_fewer(exam: Exam, dataset: Dataset, on_event: Callable[[Event], None]) -> None:
    """Warn where pictures are so large that fewer are examined, or carried, than usual."""
    usual, examined = min(EVALUATION_IMAGES, len(dataset.val)), len(exam.images)
    carried = len(_carried(exam.images)[0])
    if carried < usual:
        on_event(
            Notice(
                "warning",
                f"pictures are so large that accuracy is measured on {examined} of {usual} "
                f"held-out images, and the folder carries {carried} for the search",
            )
        )


def _carried(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of as many images as a folder may carry."""
    assert isinstance(images, ArrayImages)
    count = min(len(images), max(2, SHIPPED_BYTES // images.pixels[0].size))
    return images.pixels[:count], images.labels[:count]


def _watch(exam: Exam, space: ArchSpace, seed: int) -> Callable[[Supernet], dict[str, float]]:
    """Accuracy of the largest, the smallest and one random subnet, on fewer images."""
    quick = replace(
        exam,
        calibration=some(exam.calibration, WATCH_CALIBRATION, space, 0),
        images=some(exam.images, WATCH_IMAGES, space, 0),
    )
    archs = {
        "largest": space.largest(),
        "smallest": space.smallest(),
        "random": space.sample(np.random.default_rng([seed, 13])),
    }

    def watch(supernet: Supernet) -> dict[str, float]:
        return {name: round(quick.top1_percent(supernet, arch), 3) for name, arch in archs.items()}

    return watch


def reported(
    weights: Path,
    space: ArchSpace,
    exam: Exam,
    journal: Path,
    seed: int,
    *,
    on_event: Callable[[Event], None] = ignore,
) -> dict[str, Any]:
    """Accuracy on the exam's test images: the ends, and 50 random subnets at full resolution.

    Under `any_resolution` the same with random resolutions, and the smallest at the lowest.
    """
    rng = np.random.default_rng([seed, 17])
    low, high = space.resolutions[0], space.resolutions[-1]
    groups = {
        "": (high, space.at(high).sample_rows(rng, RANDOM_TESTED)),
        "any_resolution": (low, space.sample_rows(rng, RANDOM_TESTED)),
    }
    ends = {resolution: space.smallest(resolution) for resolution, _ in groups.values()}
    drawn = {name: space.from_rows(rows) for name, (_, rows) in groups.items()}
    archs = [space.largest(), *ends.values(), *(arch for part in drawn.values() for arch in part)]
    distinct = list(dict.fromkeys(archs))
    correct = examined(weights, space, exam, distinct, journal, on_event=on_event)
    top1 = dict(zip(distinct, 100 * correct.mean(axis=1), strict=True))

    def figures(name: str) -> dict[str, Any]:
        random = [float(top1[arch]) for arch in drawn[name]]
        return {
            "smallest_percent": round(float(top1[ends[groups[name][0]]]), 3),
            "random": len(random),
            "random_worst_percent": round(min(random), 3),
            "random_best_percent": round(max(random), 3),
        }

    return {
        "images": len(exam.images),
        "largest_percent": round(float(top1[space.largest()]), 3),
        **figures(""),
        "any_resolution": figures("any_resolution"),
    }


def sample_pictures(images: Images, space: ArchSpace, seed: int) -> dict[str, bytes]:
    """One picture of each of the first ten classes as PNG, under `samples/LABEL-0.png`."""
    from PIL import Image

    result = {}
    order = np.random.default_rng([seed, 19]).permutation(len(images))
    assert isinstance(images, ArrayImages)
    for label in range(min(space.classes, SAMPLE_CLASSES)):
        found = [int(index) for index in order if images.labels[index] == label]
        if not found:
            continue
        pixels = images.pixels[found[0]]
        picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        result[f"{SAMPLES}/{label:02d}-0.png"] = buffer.getvalue()
    return result


def _described(
    dataset: Dataset,
    space: ArchSpace,
    config: RunConfig,
    out: Path,
    leaving: Leaving,
    trained: Trained,
    figures: dict[str, Any],
) -> SupernetFolder:
    return SupernetFolder(
        path=out,
        name=leaving.name,
        space=space,
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        data={
            "name": dataset.name,
            "digest": dataset.digest,
            "licence": leaving.licence,
            "train_images": len(dataset.train),
            "val_images": len(dataset.val),
        },
        training={
            "recipe": config.recipe,
            "epochs": config.epochs,
            "batch": config.batch,
            "seed": config.seed,
            "config": asdict(config),
            "config_digest": config.digest(),
            "seconds": round(trained.seconds, 1),
            "machine": f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}",
            "finished": now(),
            "versions": {name: metadata.version(name) for name in ("ofatvm", "torch", "numpy")},
            "curve": [dict(entry) for entry in trained.history],
        },
        figures=figures,
    )

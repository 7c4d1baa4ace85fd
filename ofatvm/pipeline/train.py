"""From images to a supernet folder: train, evaluate some hundreds of subnets, fit, write."""

from __future__ import annotations

import hashlib
import io
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ofatvm.arch import ArchSpace
from ofatvm.data import ArrayImages, Dataset, Images
from ofatvm.errors import CheckpointError
from ofatvm.events import Event, ignore
from ofatvm.measurement import now
from ofatvm.pipeline.table import examined, table_archs, table_csv
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.predict.accuracy_report import evaluate_fit, paired_noise
from ofatvm.supernet.card import supernet_card
from ofatvm.supernet.checkpoint import save_weights
from ofatvm.supernet.evaluate import Exam, evaluate
from ofatvm.supernet.folder import (
    ACCURACY_MODEL,
    ACCURACY_TABLE,
    CALIBRATION,
    CARD,
    EVALUATION,
    FILE_NAME,
    WEIGHTS,
    SupernetFolder,
    packed_images,
    write_supernet,
)
from ofatvm.supernet.net import Supernet
from ofatvm.supernet.processes import joined
from ofatvm.supernet.recipe import RunConfig
from ofatvm.supernet.train import Trained, run_key, train

CALIBRATION_IMAGES = 2000
EVALUATION_IMAGES = 10_000
SHIPPED_BYTES = 16 << 20  # of raw pixels, for the images of one kind that a folder carries
WATCH_CALIBRATION, WATCH_IMAGES = 1000, 2000
HELD_OUT_SHARE = 0.2
RANDOM_TESTED = 50
SAMPLE_EDGE = 96  # pixels of a sample picture's shorter side at most
WORK = "training"


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
    """
    check_out(out)
    work = out / WORK
    work.mkdir(parents=True, exist_ok=True)
    exam = make_exam(dataset, space, config.seed)
    with joined() as processes:
        key = run_key(dataset, space, config, processes.count)
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
    trained.supernet.origin = f"trained on {dataset.name} ({config.recipe}, {key})"
    save_weights(weights, trained.supernet)
    archs, uniform = table_archs(space, leaving.table_size, config.seed)
    journal = work / "table.jsonl"
    if fresh:
        journal.unlink(missing_ok=True)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    correct = examined(weights, space, exam, archs, journal, digest, on_event=on_event)
    top1 = 100 * correct.mean(axis=1)
    rows = space.to_rows(archs)
    report = evaluate_fit(
        rows,
        top1,
        uniform,
        space,
        held_out=HELD_OUT_SHARE,
        seed=config.seed,
        noise_percent=paired_noise(correct),
    )
    model = AccuracyModel.fit(rows, top1, uniform, space, seed=config.seed)
    about = {
        "source": f"{len(archs)} subnets of {leaving.name}, evaluated by ofatvm train on "
        f"{correct.shape[1]} held-out images of {dataset.name}",
        "licence": leaving.licence,
        "held_out": report.to_dict(),
    }
    model.save(work / ACCURACY_MODEL, about)
    figures: dict[str, Any] = {
        "largest_percent": float(top1[archs.index(space.largest())]),
        "smallest_percent": float(top1[archs.index(space.smallest())]),
        "evaluated_on": f"{correct.shape[1]:,} images held out of the training part",
        "accuracy_model": report.to_dict(),
    }
    if test is not None:
        figures["test"] = reported(weights, space, exam, test, config.seed, on_event=on_event)
    folder = _described(dataset, space, config, out, leaving, trained, figures)
    contents = {
        WEIGHTS: weights.read_bytes(),
        ACCURACY_MODEL: (work / ACCURACY_MODEL).read_bytes(),
        ACCURACY_TABLE: table_csv(archs, correct, uniform),
        CALIBRATION: packed_images(_carried(exam.calibration, space)[0]),
        EVALUATION: packed_images(*_carried(exam.images, space)),
        **sample_pictures(exam.images, space, config.seed),
        CARD: supernet_card(folder).encode(),
    }
    return write_supernet(folder, contents)


def check_out(out: Path) -> None:
    """Refuse a folder that holds something else than a training or a supernet."""
    if not out.exists():
        return
    if not out.is_dir():
        raise CheckpointError(f"{out} is a file, not a folder", hint="give another --out")
    ours = (out / WORK).is_dir() or (out / FILE_NAME).is_file()
    if any(out.iterdir()) and not ours:
        raise CheckpointError(
            f"{out} holds something else than a supernet", hint="give another --out"
        )


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
    """At most `count` images in memory: drawn without repetition, in a fixed order."""
    chosen = np.random.default_rng([seed, 5]).permutation(len(images))[:count]
    chosen.sort()
    if isinstance(images, ArrayImages):
        return images.take(chosen)
    return ArrayImages(images.batch(chosen, space.resolutions[-1]), images.labels[chosen])


def _carried(images: Images, space: ArchSpace) -> tuple[np.ndarray, np.ndarray]:
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
    test: Images,
    seed: int,
    *,
    on_event: Callable[[Event], None] = ignore,
) -> dict[str, Any]:
    """Accuracy on test images: the ends, and 50 random subnets at the largest resolution.

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
    correct = evaluate(weights, space, replace(exam, images=test), distinct, on_event=on_event)
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
        "images": len(test),
        "largest_percent": round(float(top1[space.largest()]), 3),
        **figures(""),
        "any_resolution": figures("any_resolution"),
    }


def sample_pictures(images: Images, space: ArchSpace, seed: int) -> dict[str, bytes]:
    """One picture of each of the first classes as PNG, under `samples/LABEL-COUNT.png`."""
    from PIL import Image

    result = {}
    order = np.random.default_rng([seed, 19]).permutation(len(images))
    for label in range(min(space.classes, 10)):
        found = [int(i) for i in order if images.labels[i] == label][:1]
        for place, index in enumerate(found):
            assert isinstance(images, ArrayImages)
            pixels = images.pixels[index]
            picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
            picture.thumbnail((8 * SAMPLE_EDGE, SAMPLE_EDGE))
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG", optimize=True)
            result[f"samples/{label:02d}-{place}.png"] = buffer.getvalue()
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

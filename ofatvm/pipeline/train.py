"""From images to a supernet folder: train, evaluate some hundreds of subnets, fit, write."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ofatvm.arch import ArchSpace
from ofatvm.data import Dataset, Images
from ofatvm.errors import CheckpointError, DatasetError, shorten
from ofatvm.events import Event, Notice, ignore
from ofatvm.files import intended_name, remove_leftovers
from ofatvm.lock import LOCK, lock_folder
from ofatvm.measurement import now
from ofatvm.pipeline.exam import (
    carried,
    fit_accuracy,
    like_the_others,
    make_exam,
    reported,
    sample_pictures,
    say_limits,
    watcher,
)
from ofatvm.pipeline.table import examined, table_archs, table_csv
from ofatvm.supernet.card import supernet_card
from ofatvm.supernet.checkpoint import save_weights
from ofatvm.supernet.folder import (
    ACCURACY_MODEL,
    ACCURACY_TABLE,
    CALIBRATION,
    CARD,
    EVALUATION,
    FILE_NAME,
    MAX_JSON_BYTES,
    SAMPLE_NAME,
    SAMPLES,
    WEIGHTS,
    SupernetFolder,
    packed_images,
    write_supernet,
)
from ofatvm.supernet.processes import joined
from ofatvm.supernet.recipe import RunConfig
from ofatvm.supernet.train import Trained, run_key, train
from ofatvm.supernet.training_state import FILE_NAME as STATE
from ofatvm.text import is_line

WORK, TABLE = "training", "table.jsonl"


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
                say_limits(exam, dataset, on_event)
                for place in (out, work, out / SAMPLES):
                    remove_leftovers(place)
            trained = train(
                dataset,
                space,
                config,
                work,
                watch=watcher(exam, space, config.seed),
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
            "evaluated_on": f"{correct.shape[1]:,} held-out images",
            "accuracy_model": report,
        }
        if test is not None:
            on_test = replace(exam, images=like_the_others(test, exam))
            figures["test"] = reported(
                weights, space, on_test, work / TABLE, config.seed, on_event=on_event
            )
        folder = _described(dataset, space, config, out, leaving, trained, figures)
        contents = {
            WEIGHTS: weights.read_bytes(),
            ACCURACY_TABLE: table_csv(archs, correct, uniform),
            CALIBRATION: packed_images(*carried(exam.calibration)),
            EVALUATION: packed_images(*carried(exam.images)),
            **sample_pictures(exam.images, space, config.seed),
            CARD: supernet_card(folder).encode(),
        }
        if report is not None:
            contents[ACCURACY_MODEL] = (work / ACCURACY_MODEL).read_bytes()
        return write_supernet(folder, contents)


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

"""Training recipes side by side at the same cost: the sandwich and its variants, and progressive.

All train the same space on the same images, with about the same MACs of training (epochs are chosen
so): the sandwich as it is, with one random subnet a step instead of two, with one resolution for
all subnets of a step, in larger batches, and with averaged weights; and progressive shrinking. Then
the same subnets of each are recalibrated and examined on held-out images. A short run on a part of
the images ranks recipes for short runs, with one seed and one learning rate: progressive shrinking,
whose last phases have small rates and few epochs, is at its worst here. What hours of training
would give is not measured. What was interrupted continues.

    .venv/bin/python benchmarks/recipes.py --data TRAIN.npz [--images 20000] [--epochs 6]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from no_retraining import training_macs

from ofatvm.arch import Arch, ArchSpace
from ofatvm.data import ArrayImages, Dataset, load_dataset
from ofatvm.events import Event, Notice
from ofatvm.files import replace_file
from ofatvm.measurement import now
from ofatvm.paths import data_dir
from ofatvm.pipeline.exam import make_exam
from ofatvm.pipeline.table import table_archs
from ofatvm.spaces import find_space, space_for
from ofatvm.supernet.checkpoint import save_weights
from ofatvm.supernet.evaluate import evaluate
from ofatvm.supernet.recipe import RECIPES, RunConfig
from ofatvm.supernet.train import run_key, train
from ofatvm.tuning.energy import this_machine
from ofatvm.tuning.ledger import tool_versions

LEAST_EPOCHS = 6  # of progressive shrinking
COST_TOLERANCE = 0.1
GUESSES = 4


def configuration(
    recipe: str, space: ArchSpace, epochs: int, rate: float, ema_decay: float
) -> RunConfig:
    return RunConfig(
        recipe=recipe, phases=RECIPES[recipe](space, epochs, rate), ema_decay=ema_decay
    )


def as_costly(
    make: Callable[[int], RunConfig], space: ArchSpace, wanted: float, images: int
) -> RunConfig:
    """The configuration with as many epochs as take about `wanted` MACs."""
    epochs = LEAST_EPOCHS
    for _ in range(GUESSES):
        cost = training_macs(space, make(epochs), images)
        if abs(cost / wanted - 1) < COST_TOLERANCE:
            return make(epochs)
        epochs = max(LEAST_EPOCHS, round(epochs * wanted / cost))
    raise SystemExit("no number of epochs costs as much; give more --epochs")


def changed(space: ArchSpace, epochs: int, rate: float, **changes: Any) -> RunConfig:
    """The sandwich with another number of subnets or other resolutions in a step."""
    config = configuration("sandwich", space, epochs, rate, 0.0)
    (phase,) = config.phases
    return replace(config, phases=(replace(phase, **changes),))


def examined(
    job: tuple[str, int, ArchSpace, RunConfig, list[Arch], Path],
) -> tuple[np.ndarray, float]:
    """Train by a configuration; which held-out images each subnet gets right, and the seconds."""
    data, images, space, config, archs, work = job
    torch.set_num_threads(1)
    dataset = part(load_dataset(Path(data), size=space.resolutions[-1]), images)
    folder = work / run_key(dataset, space, config)
    trained = train(dataset, space, config, folder, on_event=say)
    weights = folder / "weights.safetensors"
    save_weights(weights, trained.supernet)
    return evaluate(weights, space, make_exam(dataset, space, 0), archs), trained.seconds


def part(dataset: Dataset, images: int) -> Dataset:
    """Some of the images, drawn at random: sets are often sorted by class."""
    assert isinstance(dataset.train, ArrayImages)
    chosen = np.random.default_rng(0).permutation(len(dataset.train))[:images]
    return replace(dataset, train=dataset.train.take(np.sort(chosen)))


def gain(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Points by which the mean of some subnets, (n, images) bool, is better; half its interval."""
    images = 100 * (ours.mean(axis=0) - theirs.mean(axis=0))
    return float(images.mean()), float(1.96 * images.std(ddof=1) / np.sqrt(len(images)))


def say(event: Event) -> None:
    if isinstance(event, Notice):
        print(event.text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--space", default="small28")
    parser.add_argument("--images", type=int, default=20_000, help="to train on")
    parser.add_argument("--epochs", type=int, default=6, help="of the sandwich")
    parser.add_argument("--subnets", type=int, default=40, help="to examine")
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--ema-decay", type=float, default=0.998, help="of averaged weights")
    parser.add_argument("--work", type=Path, default=Path(".ofatvm/recipes"))
    parser.add_argument("--out", type=Path, default=data_dir("results") / "recipes.json")
    options = parser.parse_args()
    base = find_space(options.space)
    dataset = part(load_dataset(Path(options.data), size=base.resolutions[-1]), options.images)
    space = space_for(base, classes=len(dataset.classes), in_channels=dataset.channels)
    rate, images = options.learning_rate, len(dataset.train)
    sandwich = configuration("sandwich", space, options.epochs, rate, 0.0)
    cost = training_macs(space, sandwich, images)
    contestants = {
        "sandwich": sandwich,
        "sandwich, one random subnet": as_costly(
            lambda epochs: changed(space, epochs, rate, subnets=1), space, cost, images
        ),
        "sandwich, one resolution a step": as_costly(
            lambda epochs: changed(space, epochs, rate, resolutions="step"), space, cost, images
        ),
        "sandwich, both": as_costly(
            lambda epochs: changed(space, epochs, rate, subnets=1, resolutions="step"),
            space,
            cost,
            images,
        ),
        "progressive": as_costly(
            lambda epochs: configuration("progressive", space, epochs, rate, 0.0),
            space,
            cost,
            images,
        ),
        "sandwich, batch 128": replace(sandwich, batch=128),
        "sandwich, averaged weights": replace(sandwich, ema_decay=options.ema_decay),
    }
    archs, uniform = table_archs(space, options.subnets, 1)
    held_out = len(make_exam(dataset, space, 0).images)
    with ProcessPoolExecutor(
        max_workers=2, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as executor:
        jobs = [
            (options.data, options.images, space, config, archs, options.work)
            for config in contestants.values()
        ]
        found = list(executor.map(examined, jobs))
    first = found[0][0]
    rows: list[dict[str, Any]] = []
    for (name, config), (correct, seconds) in zip(contestants.items(), found, strict=True):
        top1 = 100 * correct.mean(axis=1)
        better, half = gain(correct[uniform], first[uniform])
        rows.append(
            {
                "recipe": name,
                "epochs": config.epochs,
                "batch": config.batch,
                "training_macs": training_macs(space, config, images),
                "seconds": seconds,
                "largest_percent": float(top1[archs.index(space.largest())]),
                "smallest_percent": float(top1[archs.index(space.smallest())]),
                "uniform_percent": float(top1[uniform].mean()),
                "gain_points": better,
                "gain_half_width": half,
                "worst_percent": float(top1.min()),
            }
        )
    result = {
        "when": now(),
        "machine": this_machine(),
        "versions": tool_versions(),
        "images": images,
        "held_out_images": held_out,
        "subnets": len(archs),
        "recipes": rows,
    }
    replace_file(options.out, json.dumps(result, indent=1).encode() + b"\n")
    print("| recipe | epochs | 10^15 MACs | largest | smallest | uniform, mean | points more |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['recipe']} | {row['epochs']} | {row['training_macs'] / 1e15:.3f} | "
            f"{row['largest_percent']:.2f} % | {row['smallest_percent']:.2f} % | "
            f"{row['uniform_percent']:.2f} % | {row['gain_points']:+.2f} +- "
            f"{row['gain_half_width']:.2f} |"
        )


if __name__ == "__main__":
    main()

"""Subnets taken from a trained supernet without retraining, against the same trained alone.

Five subnets from the smallest to the largest: each is cut out of the supernet, its batch-norm
statistics recalibrated; and each is trained alone from scratch, with as many epochs as the
supernet's training had, on the same images with the same recipe, once for each of --seeds seeds,
whose accuracies are averaged: what one training draws by luck is as large as what is looked for.
Both are examined on test images that no choice depended on, and on the images that training held
out, which are more, but decided between recipes. Cost is said in MACs of one training (a backward
pass counts as two forward passes), which depends on no machine, and in time.

It takes about an hour a seed on two cores. What was interrupted continues at its last epoch. With
--alone-from the networks trained alone are those of an earlier result, which has kept what each of
them gets right, and only seeds it lacks are trained: a supernet that is trained anew is compared
within a minute.

    .venv/bin/python benchmarks/no_retraining.py --data TRAIN.npz --test TEST.npz [--supernet NAME]
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from train_alone import alone_phase, train_alone

from ofatvm.arch import Arch, ArchSpace, leaning
from ofatvm.data import Dataset, load_dataset, load_images, steps_per_epoch
from ofatvm.files import replace_file
from ofatvm.graph import operator_graph, totals
from ofatvm.measurement import now
from ofatvm.paths import data_dir
from ofatvm.predict.features import SpaceTables
from ofatvm.supernet.evaluate import Exam, evaluate
from ofatvm.supernet.folder import DEFAULT_SUPERNET, SupernetFolder, find_supernet
from ofatvm.supernet.recipe import Phase, RunConfig
from ofatvm.tuning.energy import this_machine
from ofatvm.tuning.ledger import tool_versions

PASSES = 3  # a forward pass, and a backward pass of twice its MACs


@dataclass(frozen=True, slots=True)
class Alone:
    """A network trained alone by a seed: which images it gets right, (n,) bool each."""

    arch: str
    seed: int
    test: np.ndarray
    held_out: np.ndarray
    epochs: int
    cpu_seconds: float


def five_subnets(space: ArchSpace) -> list[Arch]:
    """From the smallest at the lowest resolution to the largest at the highest."""
    resolutions = [space.resolutions[i * (len(space.resolutions) - 1) // 4] for i in range(5)]
    rng = np.random.default_rng(23)
    sizes = [0, 0.25, 0.5, 0.75, 1]
    return [
        space.arch(
            leaning(rng, share, space.kernels, space.blocks),
            leaning(rng, share, space.expands, space.blocks),
            leaning(rng, share, space.depths, len(space.stages)),
            resolution,
        )
        for share, resolution in zip(sizes, resolutions, strict=True)
    ]


def config_of(folder: SupernetFolder) -> RunConfig:
    """The configuration that the supernet says it was trained with."""
    value = dict(folder.training["config"])
    phases = tuple(Phase(**phase) for phase in value.pop("phases"))
    return RunConfig(phases=phases, **value)


def training_macs(space: ArchSpace, config: RunConfig, images: int) -> float:
    """MACs of a supernet's training: the very subnets of its steps, and its teacher, are counted.

    A teacher that is not trained takes a forward pass a step.
    """
    trained: list[Arch] = []
    teachers: list[Arch] = []
    for number, phase in enumerate(config.phases):
        for step in range(phase.epochs * steps_per_epoch(images, config.batch)):
            archs = phase.archs(space, (config.seed, 7, number, step))
            trained += archs
            if phase.teacher == "largest":
                teachers.append(space.largest(archs[0].resolution))
    tables = SpaceTables.build(space)
    passes = PASSES * tables.macs(space.to_rows(trained)).sum()
    if teachers:
        passes += tables.macs(space.to_rows(teachers)).sum()
    return float(passes) * config.batch


def training_data(
    path: str, digest: str, images: int, config: RunConfig, space: ArchSpace
) -> Dataset:
    """What the supernet was trained on: the data with this digest, of which it saw `images`."""
    dataset = load_dataset(Path(path), seed=config.seed, size=space.resolutions[-1])
    assert dataset.digest == digest, f"{path} is not what the supernet was trained on"
    assert len(dataset.train) == images, f"the supernet was trained on {images} of {path}"
    return dataset


def train_and_examine(job: tuple[Arch, int, SupernetFolder, int, argparse.Namespace]) -> Alone:
    """Train one architecture alone and examine it; runs in a process of its own.

    The seed decides all but which images are held out.
    """
    arch, seed, folder, epochs, options = job
    config = config_of(folder)
    digest, images = folder.data["digest"], folder.data["train_images"]
    dataset = training_data(options.data, digest, images, config, arch.space)
    subnet, seconds = train_alone(
        arch,
        dataset,
        replace(config, seed=seed),
        alone_phase(config, epochs),
        options.work / arch.encode().replace("/", "_") / f"seed-{seed}",
    )
    test = load_images(
        Path(options.test),
        classes=dataset.classes,
        channels=dataset.channels,
        size=arch.space.resolutions[-1],
    )
    right, right_held_out = (
        Exam(dataset.train, pictures, dataset.mean, dataset.std).correct(subnet)
        for pictures in (test, dataset.val)
    )
    return Alone(arch.encode(), seed, right, right_held_out, epochs, seconds)


def trained_alone(
    jobs: Sequence[tuple[Arch, int]],
    folder: SupernetFolder,
    epochs: int,
    options: argparse.Namespace,
) -> list[Alone]:
    """Train each architecture alone by its seed, two side by side."""
    with ProcessPoolExecutor(
        max_workers=2, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as executor:
        work = [(arch, seed, folder, epochs, options) for arch, seed in jobs]
        return list(executor.map(train_and_examine, work))


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Points by which we are better on the same images, and half its 95 % interval.

    Each is (n,): whether an image is right, or in which share of several trainings it is.
    """
    gains = ours.astype(float) - theirs.astype(float)
    return 100 * gains.mean(), 196 * gains.std(ddof=1) / math.sqrt(len(gains))


def packed(right: np.ndarray) -> str:
    """Which images are right, as text of a sixth of their number."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def unpacked(text: str, images: int) -> np.ndarray:
    """The reverse of `packed`."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))
    return bits[:images].astype(bool)


def earlier(path: Path, config: RunConfig, digest: str) -> list[Alone]:
    """What an earlier result has of networks trained alone."""
    value = json.loads(path.read_bytes())
    assert value["data_digest"] == digest, f"those of {path} were trained on other images"
    images = value["test_images"], value["held_out_images"]
    found = []
    for row in value["subnets"]:
        assert row["alone_batch"] == config.batch, f"those of {path} had other batches"
        for alone in row["alone"]:
            assert alone["epochs"] >= config.epochs, f"those of {path} had fewer epochs"
            test, held_out = map(unpacked, (alone["right"], alone["right_held_out"]), images)
            seed, epochs, seconds = alone["seed"], alone["epochs"], alone["cpu_seconds"]
            found.append(Alone(row["arch"], seed, test, held_out, epochs, seconds))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="what the supernet was trained on")
    parser.add_argument("--test", required=True, help="images for reporting alone")
    parser.add_argument("--supernet", default=DEFAULT_SUPERNET)
    parser.add_argument("--epochs", type=int, help="of each alone (default: the supernet's)")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each alone")
    parser.add_argument("--alone-from", type=Path, help="an earlier result of this script")
    parser.add_argument("--work", type=Path, default=Path(".ofatvm/no_retraining"))
    parser.add_argument("--out", type=Path, default=data_dir("results") / "no_retraining.json")
    options = parser.parse_args()
    folder = find_supernet(options.supernet)
    config = config_of(folder)
    epochs = options.epochs or config.epochs
    assert not config.ema_decay, "networks alone are trained without averaged weights"
    archs = five_subnets(folder.space)
    test = load_images(
        Path(options.test),
        classes=folder.classes,
        channels=folder.space.in_channels,
        size=folder.space.resolutions[-1],
    )
    shared, shared_held = (
        evaluate(
            folder.weights,
            folder.space,
            Exam(folder.calibration(), images, folder.mean, folder.std),
            archs,
        )
        for images in (test, folder.evaluation())
    )
    images = folder.data["train_images"]
    per_epoch = steps_per_epoch(images, config.batch) * config.batch
    alone_of = []
    if options.alone_from:
        alone_of = earlier(options.alone_from, config, folder.data["digest"])
    # The largest first: two processes end at about the same time.
    wanted = [(arch, seed) for seed in range(options.seeds) for arch in reversed(archs)]
    there = {(alone.arch, alone.seed) for alone in alone_of}
    missing = [(arch, seed) for arch, seed in wanted if (arch.encode(), seed) not in there]
    alone_of += trained_alone(missing, folder, epochs, options)
    rows: list[dict[str, Any]] = []
    for arch, ours, ours_held in zip(archs, shared, shared_held, strict=True):
        macs = totals(operator_graph(arch)).macs
        name = arch.encode()
        those = [a for a in alone_of if a.arch == name and a.seed < options.seeds]
        those.sort(key=lambda alone: alone.seed)
        # In which share of the trainings an image is right, (n,)
        test_share = np.mean([alone.test for alone in those], axis=0)
        held_share = np.mean([alone.held_out for alone in those], axis=0)
        gain, half = difference(ours, test_share)
        held_gain, held_half = difference(ours_held, held_share)
        rows.append(
            {
                "arch": name,
                "macs": macs,
                "supernet_percent": 100 * float(ours.mean()),
                "alone_percent": 100 * float(test_share.mean()),
                "gain_points": gain,
                "gain_half_width": half,
                "supernet_held_out_percent": 100 * float(ours_held.mean()),
                "alone_held_out_percent": 100 * float(held_share.mean()),
                "held_out_gain_points": held_gain,
                "held_out_gain_half_width": held_half,
                "alone_training_macs": float(PASSES * macs * per_epoch * those[0].epochs),
                "alone_batch": config.batch,
                "alone_cpu_seconds": float(np.mean([alone.cpu_seconds for alone in those])),
                "alone": [
                    {
                        "seed": alone.seed,
                        "epochs": alone.epochs,
                        "percent": 100 * float(alone.test.mean()),
                        "held_out_percent": 100 * float(alone.held_out.mean()),
                        "cpu_seconds": alone.cpu_seconds,
                        "right": packed(alone.test),
                        "right_held_out": packed(alone.held_out),
                    }
                    for alone in those
                ],
            }
        )
    whole = training_macs(folder.space, config, images)
    result = {
        "when": now(),
        "machine": this_machine(),
        "versions": tool_versions(),
        "supernet": folder.name,
        "data_digest": folder.data["digest"],
        "epochs": config.epochs,
        "batch": config.batch,
        "seeds": options.seeds,
        "test_images": len(test),
        "held_out_images": len(folder.evaluation()),
        "alone_from": None if options.alone_from is None else options.alone_from.name,
        "supernet_training_macs": whole,
        "supernet_wall_seconds": folder.training["seconds"],
        "supernet_machine": folder.training["machine"],
        "subnets": rows,
        "alone_over_supernet_macs": sum(row["alone_training_macs"] for row in rows) / whole,
    }
    replace_file(options.out, json.dumps(result, indent=1).encode() + b"\n")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| subnet | M MACs | from the supernet | alone (each seed) | difference, points | "
        "on held-out images | 10^12 MACs alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["subnets"]:
        there = f"{row['held_out_gain_points']:+.2f} +- {row['held_out_gain_half_width']:.2f}"
        each = ", ".join(f"{alone['percent']:.2f}" for alone in row["alone"])
        lines.append(
            f"| {row['arch']} | {row['macs'] / 1e6:.2f} | {row['supernet_percent']:.2f} % | "
            f"{row['alone_percent']:.2f} % ({each}) | {row['gain_points']:+.2f} +- "
            f"{row['gain_half_width']:.2f} | {there} | {row['alone_training_macs'] / 1e12:.2f} |"
        )
    whole = result["supernet_training_macs"] / 1e12
    lines.append(
        f"\nThe supernet, {result['epochs']} epochs, batch {result['batch']}: {whole:.2f} 10^12 "
        "MACs; the five alone, at least as many epochs each: "
        f"{result['alone_over_supernet_macs']:.2f} times that. {result['test_images']} test "
        f"and {result['held_out_images']} held-out images; +- is half a 95 % interval over images."
    )
    alone_s = sum(row["alone_cpu_seconds"] for row in result["subnets"])
    lines.append(
        f"In time: the five alone, once each, {alone_s:,.0f} CPU-seconds; the supernet "
        f"{result['supernet_wall_seconds']:,.0f} s by the clock on {result['supernet_machine']}, "
        "which need not be the same machine."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""What a subnet loses by sharing its weights: the shipped supernet's, given a short time alone.

Each subnet is cut out of the trained supernet and trained on by itself for a few epochs, from the
shipped weights, without any other subnet: once all of it, once its depthwise kernels and norms
alone, a small part of its parameters. What it gains, on the images that training held out, it had
lost to the others, or for want of epochs of its own. Nothing is shipped of this.

It takes about a quarter of an hour on two cores. What was interrupted continues at its last epoch.

    .venv/bin/python benchmarks/sharing.py --data TRAIN.npz [--supernet NAME] [--epochs 2]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from no_retraining import config_of, difference, five_subnets, training_data
from train_alone import alone_phase, train_alone

from ofatvm.arch import Arch
from ofatvm.files import replace_file
from ofatvm.measurement import now
from ofatvm.paths import data_dir
from ofatvm.supernet.checkpoint import load_weights
from ofatvm.supernet.evaluate import Exam
from ofatvm.supernet.folder import DEFAULT_SUPERNET, find_supernet
from ofatvm.tuning.energy import this_machine
from ofatvm.tuning.ledger import tool_versions

LEARNING_RATE = 0.04  # from there half a cosine to zero, without a warm-up
SPATIAL = re.compile(r"\.depth_conv\.conv\.|\.bn\.")
PARTS: dict[str, Callable[[str], bool]] = {
    "all of it": lambda name: True,
    "depthwise and norms": lambda name: SPATIAL.search(name) is not None,
}


def gain_alone(job: tuple[Arch, str, argparse.Namespace]) -> dict[str, Any]:
    """One subnet as it is shared and after a time alone; runs in a process of its own."""
    arch, part, options = job
    folder = find_supernet(options.supernet)
    config = config_of(folder)
    digest, images = folder.data["digest"], folder.data["train_images"]
    dataset = training_data(options.data, digest, images, config, folder.space)
    exam = Exam(folder.calibration(), dataset.val, folder.mean, folder.std)
    subnet = exam.calibrated(load_weights(folder.weights, folder.space), arch)
    shared = exam.correct(subnet)
    learns = PARTS[part]
    phase = replace(
        alone_phase(config, options.epochs), warmup_epochs=0.0, learning_rate=LEARNING_RATE
    )
    sizes = {name: tensor.numel() for name, tensor in subnet.named_parameters()}
    learning = sum(size for name, size in sizes.items() if learns(name))
    work = options.work / folder.files["weights.safetensors"][:12] / part.replace(" ", "-")
    alone, seconds = train_alone(
        arch,
        dataset,
        config,
        phase,
        work / arch.encode().replace("/", "_"),
        start=subnet,
        learns=learns,
    )
    after = exam.correct(alone)
    gain, half = difference(after, shared)
    return {
        "arch": arch.encode(),
        "part": part,
        "parameters": learning,
        "of_parameters": sum(sizes.values()),
        "held_out_images": len(after),
        "shared_percent": 100 * float(np.mean(shared)),
        "after_percent": 100 * float(np.mean(after)),
        "gain_points": gain,
        "gain_half_width": half,
        "cpu_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="what the supernet was trained on")
    parser.add_argument("--supernet", default=DEFAULT_SUPERNET)
    parser.add_argument("--epochs", type=int, default=2, help="of each alone")
    parser.add_argument("--work", type=Path, default=Path(".ofatvm/sharing"))
    parser.add_argument("--out", type=Path, default=data_dir("results") / "sharing.json")
    options = parser.parse_args()
    folder = find_supernet(options.supernet)
    archs = five_subnets(folder.space)
    # The largest first: two processes end at about the same time.
    jobs = [(arch, part, options) for arch in reversed(archs) for part in PARTS]
    with ProcessPoolExecutor(
        max_workers=2, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as executor:
        rows = list(executor.map(gain_alone, jobs))
    order = [arch.encode() for arch in archs]
    rows.sort(key=lambda row: order.index(row["arch"]))
    result = {
        "when": now(),
        "machine": this_machine(),
        "versions": tool_versions(),
        "supernet": folder.name,
        "epochs": options.epochs,
        "learning_rate": LEARNING_RATE,
        "rows": rows,
    }
    replace_file(options.out, json.dumps(result, indent=1).encode() + b"\n")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table, a line a subnet."""
    lines = [
        f"| subnet | shared | {' | '.join(PARTS)} |",
        "|---|---|" + "---|" * len(PARTS),
    ]
    for start in range(0, len(result["rows"]), len(PARTS)):
        rows = result["rows"][start : start + len(PARTS)]
        cells = [
            f"{row['after_percent']:.2f} %, {row['gain_points']:+.2f} "
            f"+- {row['gain_half_width']:.2f}"
            for row in rows
        ]
        shared = f"{rows[0]['shared_percent']:.2f} %"
        lines.append(f"| {rows[0]['arch']} | {shared} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

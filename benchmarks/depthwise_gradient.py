"""Depthwise convolutions forward and backward on small maps: ours against torch's own.

The shapes are those of the small space's blocks, one thread, a batch of 32. Both are timed in turn
and the ratio is taken round by round, so that a slow moment of the machine hits both. Run it on a
machine that does nothing else:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/depthwise_gradient.py [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ofatvm.supernet.depthwise import depthwise
from ofatvm.supernet.memory import keep_memory
from ofatvm.tuning.energy import this_machine
from ofatvm.tuning.ledger import tool_versions

BATCH = 32
# Channels, edge, stride.
SHAPES = (
    (64, 14, 1),
    (192, 7, 1),
    (192, 6, 1),
    (256, 5, 1),
    (256, 5, 2),
    (256, 4, 1),
    (256, 4, 2),
    (256, 3, 1),
)


def theirs(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    padding = weight.shape[-1] // 2
    return F.conv2d(x, weight, stride=stride, padding=padding, groups=len(weight))


def seconds(
    convolve: Callable[[Tensor, Tensor, int], Tensor], x: Tensor, weight: Tensor, stride: int
) -> float:
    """Of one pass forward and back."""
    started = time.perf_counter()
    convolve(x, weight, stride).sum().backward()
    return time.perf_counter() - started


def compared(channels: int, edge: int, stride: int, kernel: int, rounds: int) -> dict[str, Any]:
    x = torch.randn(BATCH, channels, edge, edge).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    weight = torch.randn(channels, 1, kernel, kernel, requires_grad=True)
    pairs = [
        (seconds(theirs, x, weight, stride), seconds(depthwise, x, weight, stride))
        for _ in range(rounds)
    ][rounds // 5 :]
    ratios = sorted(other / ours for other, ours in pairs)
    return {
        "shape": [BATCH, channels, edge, edge],
        "kernel": kernel,
        "stride": stride,
        "torch_ms": 1e3 * statistics.median(other for other, _ in pairs),
        "ours_ms": 1e3 * statistics.median(ours for _, ours in pairs),
        "faster": statistics.median(ratios),
        "faster_quartiles": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_memory()
    rows = [compared(*shape, kernel, options.rounds) for kernel in (5, 7) for shape in SHAPES]
    result = {"machine": this_machine(), "versions": tool_versions(), "shapes": rows}
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print("| kernel | channels | edge | stride | torch, ms | ours, ms | times faster |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        low, high = row["faster_quartiles"]
        print(
            f"| {row['kernel']} | {row['shape'][1]} | {row['shape'][2]} | {row['stride']} | "
            f"{row['torch_ms']:.2f} | {row['ours_ms']:.2f} | {row['faster']:.2f} "
            f"({low:.2f} to {high:.2f}) |"
        )


if __name__ == "__main__":
    main()

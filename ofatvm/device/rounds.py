"""Measuring in rounds, whatever makes the visits: order, strikes, early end, and the summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ofatvm.compiler.base import CompiledKernel
from ofatvm.device.reference import Reference
from ofatvm.device.timing import Latency, Protocol, Visit, calm_rounds, summarise

STRIKES = 2
MIN_ROUNDS = 3
KERNEL_MS = 25.0
KERNEL_PASSES = 3
KERNELS_PER_JOB = 20
# Seconds of a visit's calls and of the yardstick before and after, or why the program failed.
Visited = tuple[Sequence[float], tuple[float, float]] | str
Timed = tuple[Sequence[float], float]


def measure_in_rounds(
    count: int,
    protocol: Protocol,
    *,
    seed: int,
    reference: Reference,
    visit: Callable[[Sequence[int]], Iterable[tuple[int, Visited]]],
    fresh: Callable[[], None],
    on_visit: Callable[[int, int], None],
    strikes: int = STRIKES,
) -> list[Latency | str]:
    """Latencies of `count` programs; a program that fails `strikes` times is given up.

    `visit` visits the programs of one round in the order given and yields each with what came of
    it; `fresh` begins a fresh process where the protocol has several. Visits that prove the
    yardstick's `reference` too long lower it.
    """
    reference_s = reference.get()
    rng = np.random.default_rng(seed)
    visits: list[list[Visit]] = [[] for _ in range(count)]
    failures: list[list[str]] = [[] for _ in range(count)]
    total, done = protocol.processes * protocol.rounds * count, 0
    for process in range(protocol.processes):
        if protocol.processes > 1:
            fresh()
        for number in range(protocol.rounds):
            order = [int(i) for i in rng.permutation(count)]
            going = [i for i in order if len(failures[i]) < strikes]
            done += count - len(going)
            for i, found in visit(going):
                if isinstance(found, str):
                    failures[i].append(found)
                else:
                    calls, calibration = found
                    place = process * protocol.rounds + number
                    visits[i].append(Visit(process, tuple(calls), calibration, place))
                done += 1
                on_visit(done, total)
            if number + 1 >= MIN_ROUNDS and protocol.processes == 1:
                fine = [v for v, f in zip(visits, failures, strict=True) if len(f) < strikes and v]
                if all(_precise(found, reference_s, protocol) for found in fine):
                    break
    reference_s = reference.prove([s for found in visits for v in found for s in v.calibration_s])
    return [
        summarise(found, reference_s)
        if found and len(failed) < strikes
        else (failed or ["it was never run"])[-1]
        for found, failed in zip(calm_rounds(visits), failures, strict=True)
    ]


def _precise(visits: Sequence[Visit], reference_s: float, protocol: Protocol) -> bool:
    """Whether a program is known well enough to stop early."""
    if len(visits) < MIN_ROUNDS:
        return False
    return summarise(visits, reference_s).half_width <= protocol.half_width


def kernel_jobs(kernels: Sequence[CompiledKernel]) -> list[list[CompiledKernel]]:
    """Some passes over the kernels, cut into jobs of a few seconds."""
    places = range(len(kernels) * KERNEL_PASSES)
    return [
        [kernels[place % len(kernels)] for place in places[start : start + KERNELS_PER_JOB]]
        for start in range(0, len(places), KERNELS_PER_JOB)
    ]


def least_ms(
    jobs: Iterable[tuple[Sequence[CompiledKernel], Timed]], reference: Reference
) -> dict[str, float]:
    """Milliseconds by digest: the least of a kernel's passes.

    Each is divided by how much slower than their reference the calibration kernels ran beside it,
    which they may prove too long.
    """
    timed = list(jobs)
    reference_s = reference.prove([calibration for _, (_, calibration) in timed])
    result: dict[str, float] = {}
    for kernels, (times, calibration) in timed:
        for kernel, seconds in zip(kernels, times, strict=True):
            normal_ms = seconds * 1e3 / max(1.0, calibration / reference_s)
            result[kernel.digest] = min(normal_ms, result.get(kernel.digest, normal_ms))
    return result

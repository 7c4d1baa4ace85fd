"""The workloads of a subnet, of a population, and of a whole search space."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ofatvm.arch import Arch, ArchSpace
from ofatvm.compiler.plan import KernelCall, Workload, kernel_calls
from ofatvm.graph import operator_graph


@dataclass(frozen=True, slots=True)
class WorkloadUse:
    """A workload and what it stands for in a set of networks.

    `calls`: mean number of calls a network makes; `macs`: mean MACs a network spends in it;
    `share`: its part of all MACs.
    """

    workload: Workload
    calls: float
    macs: float
    share: float


def subnet_workloads(arch: Arch) -> list[WorkloadUse]:
    """The distinct workloads of one architecture, most compute first."""
    return population_workloads([arch])


def population_workloads(archs: Iterable[Arch]) -> list[WorkloadUse]:
    """The distinct workloads of some architectures, most compute first."""
    calls: dict[Workload, float] = defaultdict(float)
    count = 0
    for arch in archs:
        count += 1
        for call in kernel_calls(operator_graph(arch)):
            calls[call.workload] += 1.0
    return _uses({workload: number / count for workload, number in calls.items()})


def space_workloads(space: ArchSpace, resolution: int) -> list[WorkloadUse]:
    """Every workload that any subnet of the space has at a resolution, most compute first.

    Enumerated, not sampled: a block's kernels depend only on its stage, on whether it is the
    stage's first, and on its kernel size and expand ratio, so one full-depth network per (kernel,
    expand) pair holds them all. `calls` is the mean over uniformly drawn subnets.
    """
    pairs = [(kernel, expand) for kernel in space.kernels for expand in space.expands]
    calls: dict[Workload, float] = defaultdict(float)
    for kernel, expand in pairs:
        arch = space.uniform(
            kernel=kernel, expand=expand, depth=space.max_depth, resolution=resolution
        )
        for call in kernel_calls(operator_graph(arch)):
            calls[call.workload] += _presence(space, call) / len(pairs)
    return _uses(calls)


def coverage(uses: Iterable[WorkloadUse], tuned: Iterable[str]) -> float:
    """Share of compute (by MACs) in workloads whose keys are in `tuned`; 0 to 1."""
    known = set(tuned)
    shares = [(use.share, use.workload.key in known) for use in uses]
    if shares and all(tuned for _, tuned in shares):
        return 1.0
    return min(1.0, sum(share for share, tuned in shares if tuned))


def _presence(space: ArchSpace, call: KernelCall) -> float:
    """Probability that a call's block is there, every depth being equally likely."""
    name = call.output
    if not name.startswith("stage"):
        return 1.0
    position = int(name.split(".")[1].removeprefix("block"))
    return sum(depth >= position for depth in space.depths) / len(space.depths)


def union(spaces: Iterable[Iterable[WorkloadUse]]) -> list[WorkloadUse]:
    """Each workload of several resolutions once, most compute first: what is tuned in one run."""
    uses: dict[str, WorkloadUse] = {}
    for space in spaces:
        for use in space:
            uses.setdefault(use.workload.key, use)
    return sorted(uses.values(), key=lambda use: (-use.macs, use.workload.key))


def _uses(calls: dict[Workload, float]) -> list[WorkloadUse]:
    total = sum(number * workload.macs for workload, number in calls.items())
    uses = [
        WorkloadUse(workload, number, number * workload.macs, number * workload.macs / total)
        for workload, number in calls.items()
    ]
    return sorted(uses, key=lambda use: (-use.macs, use.workload.key))

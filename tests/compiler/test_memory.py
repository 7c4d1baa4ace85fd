"""Tensors that live together never share memory, and the plan is about as small as can be."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofatvm.arch import ArchSpace
from ofatvm.compiler.memory import ALIGNMENT, FLOAT_BYTES, MemoryPlan, aligned, plan_workspace
from ofatvm.compiler.plan import KernelCall, Workload, kernel_calls
from ofatvm.graph import operator_graph, totals
from ofatvm.spaces import SPACES


@st.composite
def programs(draw: st.DrawFn) -> list[KernelCall]:
    """Calls that read the network's input or any earlier outputs; some outputs nobody reads."""
    calls: list[KernelCall] = []
    for number in range(draw(st.integers(1, 14))):
        known = ["input", *(call.output for call in calls)]
        inputs = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
        channels = draw(st.integers(1, 700))
        workload = Workload("dense", (8,), (channels,))
        calls.append(KernelCall(workload, tuple(inputs), f"w{number}", f"t{number}"))
    return calls


def bytes_of(call: KernelCall) -> int:
    return FLOAT_BYTES * math.prod(call.workload.out_shape)


def live_sets(calls: list[KernelCall]) -> list[list[KernelCall]]:
    """For each call, the workspace tensors that it or a later call needs, and what it makes."""
    result = []
    for now in range(len(calls)):
        needed = {name for call in calls[now:] for name in call.inputs}
        made = [call for call in calls[: now + 1] if call.output in needed]
        made += [] if calls[now] in made else [calls[now]]
        result.append([call for call in made if call is not calls[-1]])
    return result


def check(calls: list[KernelCall], plan: MemoryPlan) -> None:
    assert set(plan.offsets) == {call.output for call in calls[:-1]}
    assert all(offset >= 0 and offset % ALIGNMENT == 0 for offset in plan.offsets.values())
    for live in live_sets(calls):
        for one, other in combinations(live, 2):
            first, second = plan.offsets[one.output], plan.offsets[other.output]
            assert first + bytes_of(one) <= second or second + bytes_of(other) <= first
    ends = [plan.offsets[call.output] + bytes_of(call) for call in calls[:-1]]
    assert all(end <= plan.size_bytes for end in ends)
    least = max((sum(map(bytes_of, live)) for live in live_sets(calls)), default=0)
    most = sum(aligned(bytes_of(call)) for call in calls[:-1])
    assert least <= plan.size_bytes <= most


@given(programs())
def test_tensors_that_live_together_never_overlap(calls: list[KernelCall]) -> None:
    check(calls, plan_workspace(calls))


@given(programs())
def test_the_same_calls_get_the_same_plan(calls: list[KernelCall]) -> None:
    assert plan_workspace(calls) == plan_workspace(list(calls))


@pytest.mark.parametrize(
    ("space", "resolution"),
    [(s, r) for s in SPACES.values() for r in (20, 24, 28, 128, 148, 224) if r in s.resolutions],
    ids=str,
)
def test_networks_need_little_more_than_their_peak(space: ArchSpace, resolution: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [space.at(resolution).sample(rng) for _ in range(6)]
    for arch in (space.smallest(resolution), space.largest(resolution), *drawn):
        graph = operator_graph(arch)
        calls = kernel_calls(graph)
        plan = plan_workspace(calls)
        check(calls, plan)
        # Of a small network's few tensors none fits beside the two that make its peak.
        most = 1.08 if resolution >= 128 else 1.3
        assert plan.size_bytes <= most * totals(graph).peak_memory_bytes


def test_one_call_needs_nothing() -> None:
    call = KernelCall(Workload("dense", (8,), (4,)), ("input",), "w", "out")
    assert plan_workspace([call]) == MemoryPlan({}, 0)


@pytest.mark.parametrize(("size", "place"), [(0, 0), (1, 64), (64, 64), (65, 128)])
def test_sizes_are_rounded_up(size: int, place: int) -> None:
    assert aligned(size) == place

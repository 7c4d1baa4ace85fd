from __future__ import annotations

import numpy as np
import pytest

from ofatvm.arch import ArchSpace, StageSpec
from ofatvm.compiler.plan import kernel_calls
from ofatvm.graph import operator_graph, totals
from ofatvm.spaces import SPACES
from ofatvm.tuning.workloads import (
    coverage,
    population_workloads,
    space_workloads,
    subnet_workloads,
)

TINY = ArchSpace(
    name="tiny",
    code="tiny",
    stem_width=8,
    first_width=16,
    stages=(StageSpec(16, 2, "relu", False), StageSpec(24, 2, "h_swish", True)),
    head_width=32,
    feature_width=48,
    classes=10,
    resolutions=(28, 32),
    in_channels=1,
    kernels=(3, 5),
    expands=(2, 3),
    depths=(1, 2),
)
ALL = [*SPACES.values(), TINY]


@pytest.mark.parametrize("space", ALL, ids=lambda space: space.name)
def test_subnets_have_no_workload_the_space_lacks_and_reach_every_one(space: ArchSpace) -> None:
    resolution = space.resolutions[-1]
    whole = {use.workload for use in space_workloads(space, resolution)}
    archs = space.from_rows(space.at(resolution).sample_rows(np.random.default_rng(0), 150))
    seen = {use.workload for use in population_workloads(archs)}
    assert seen == whole


def test_the_default_space_has_a_couple_of_hundred_workloads() -> None:
    uses = space_workloads(SPACES["ofa_mbv3_d234_e346_k357_w1.0"], 224)
    assert 150 < len(uses) < 250
    assert [use.macs for use in uses] == sorted((use.macs for use in uses), reverse=True)
    assert sum(use.share for use in uses) == pytest.approx(1.0)


@pytest.mark.parametrize("space", ALL, ids=lambda space: space.name)
def test_calls_are_the_mean_over_uniform_subnets(space: ArchSpace) -> None:
    resolution, count = space.resolutions[0], 400
    uses = {use.workload: use for use in space_workloads(space, resolution)}
    archs = space.from_rows(space.at(resolution).sample_rows(np.random.default_rng(1), count))
    sample = {use.workload: use for use in population_workloads(archs)}
    for workload, use in uses.items():
        drawn = sample[workload].calls if workload in sample else 0.0
        # Five standard errors of a mean of counts.
        assert abs(drawn - use.calls) < 5 * np.sqrt(use.calls / count), workload.key
    total = sum(use.macs for use in uses.values())
    assert sum(use.macs for use in sample.values()) == pytest.approx(total, rel=0.05)


def test_a_space_of_one_choice_is_its_only_subnet() -> None:
    from dataclasses import replace

    single = replace(TINY, kernels=(3,), expands=(2,), depths=(2,))
    assert space_workloads(single, 28) == subnet_workloads(single.largest(28))


def test_a_subnets_uses_add_up_to_its_macs() -> None:
    arch = TINY.largest(28)
    graph = operator_graph(arch)
    uses = subnet_workloads(arch)
    assert sum(use.macs for use in uses) == totals(graph).macs
    assert sum(use.calls for use in uses) == len(kernel_calls(graph))
    assert sum(use.share for use in uses) == pytest.approx(1.0)
    assert population_workloads([arch, arch]) == uses


def test_no_subnets_have_no_workloads() -> None:
    assert population_workloads([]) == []
    assert coverage([], ["dense_1_1"]) == 0.0


def test_coverage_counts_compute() -> None:
    uses = subnet_workloads(TINY.largest())
    keys = [use.workload.key for use in uses]
    assert coverage(uses, keys) == pytest.approx(1.0)
    assert coverage(uses, keys) <= 1.0
    assert coverage(uses, []) == 0.0
    assert coverage(uses, ["of_another_space"]) == 0.0
    assert coverage(uses, [keys[0], keys[0]]) == uses[0].share
    free = [use.workload.key for use in uses if not use.workload.is_compute]
    assert free
    assert coverage(uses, free) == 0.0

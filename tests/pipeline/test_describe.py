"""Descriptions need no device; predictions are there where a model is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofatvm.errors import MissingInputError
from ofatvm.graph import operator_graph, totals
from ofatvm.pipeline.describe import describe, predicted_accuracy
from ofatvm.pipeline.measure import compile_space, kernel_times, measure
from ofatvm.pipeline.model import fit_latency, load_latency, model_folder
from ofatvm.pipeline.setup import Setup
from ofatvm.store import Store
from ofatvm.tuning.journal import Journal, Trial
from ofatvm.tuning.workloads import subnet_workloads
from tests.workbench import SPACE, PretendDevice


def test_costs_are_those_of_the_graph(setup: Setup) -> None:
    arch = SPACE.smallest(160)
    [found] = describe(setup, [arch])
    cost = totals(operator_graph(arch))
    assert (found.macs, found.params) == (cost.macs, cost.params)
    assert (found.weight_bytes, found.peak_memory_bytes) == (
        cost.weight_bytes,
        cost.peak_memory_bytes,
    )
    assert found.workloads == len(subnet_workloads(arch))
    assert found.coverage == 0.0
    assert found.predicted_top1_percent is None, "there is no model at 160"
    assert found.predicted_latency_ms is None
    values = found.to_dict()
    assert (values["arch"], values["resolution"]) == (arch.encode(), 160)


def test_coverage_counts_tuned_compute(setup: Setup) -> None:
    arch = SPACE.smallest(224)
    uses = subnet_workloads(arch)
    config = setup.library.kernel(uses[0].workload).config
    with Journal.open(setup.tuning_logs / setup.target.name) as journal:
        journal.append([Trial(uses[0].workload.key, config, (1e-3,))])
    [found] = describe(
        Setup(
            setup.target,
            setup.unit,
            setup.space,
            setup.workspace,
            setup.tuning_logs,
            setup.executor,
        ),
        [arch],
    )
    assert found.coverage == pytest.approx(uses[0].share)
    assert found.coverage > 0


def test_accuracy_is_predicted_for_each_space_and_resolution() -> None:
    drawn = SPACE.at(224).from_rows(SPACE.at(224).sample_rows(np.random.default_rng(0), 3))
    mixed = [drawn[0], SPACE.smallest(128), *drawn[1:], SPACE.largest(224)]
    top1 = predicted_accuracy(mixed)
    assert [value is None for value in top1] == [False, True, False, False, False]
    assert all(65 < value < 80 for value in top1 if value is not None)
    assert top1[0] == predicted_accuracy([drawn[0]])[0]
    assert predicted_accuracy([]) == []


def test_latency_is_predicted_once_a_model_was_fitted(setup: Setup, store: Store) -> None:
    assert load_latency(setup) is None
    device = PretendDevice()
    kernel_ms = kernel_times(setup, store, device, compile_space(setup))
    rows = setup.space.sample_rows(np.random.default_rng(0), 24)
    archs = setup.space.from_rows(rows)
    measured = measure(setup, store, device, archs, source="profile")
    fit_latency(setup, measured[:20], kernel_ms, seed=0)
    for arch, m, found in zip(archs[20:], measured[20:], describe(setup, archs[20:]), strict=True):
        assert found.arch == arch
        assert m.latency_ms is not None
        assert found.predicted_latency_ms == pytest.approx(m.latency_ms, rel=0.1)
        assert found.predicted_low_ms is not None
        assert found.predicted_high_ms is not None
        assert found.predicted_low_ms < found.predicted_latency_ms < found.predicted_high_ms
    # Another resolution has no model; kernels tuned anew make the old one another's.
    assert describe(setup, [SPACE.smallest(128)])[0].predicted_latency_ms is None
    [use] = [u for u in subnet_workloads(archs[0]) if u.workload.kind == "conv"]
    other = setup.library.kernel(use.workload).config
    setup.library.records[use.workload.key] = type(other)(1, 1, 1, 1)
    assert load_latency(setup) is None


def test_a_damaged_model_says_how_to_mend_it(setup: Setup) -> None:
    folder = model_folder(setup)
    folder.mkdir(parents=True)
    (folder / "latency.json").write_text("{")
    with pytest.raises(MissingInputError, match="damaged"):
        describe(setup, [SPACE.smallest(224)])


def test_nothing_to_describe(setup: Setup, tmp_path: Path) -> None:
    assert describe(setup, []) == []

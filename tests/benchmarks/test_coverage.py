from __future__ import annotations

import pytest

from benchmarks.coverage import PLACES, one_after_another, with_records
from ofatvm.spaces import OFA_SPACE, find_space
from ofatvm.tuning.workloads import space_workloads

SPACE = find_space(OFA_SPACE).at(128)


def test_all_records_cover_every_subnet_and_none_cover_nothing() -> None:
    every = [use.workload.key for use in space_workloads(SPACE, 128)]
    whole = with_records(SPACE, 10, 0, set(every))
    assert (whole["coverage_min"], whole["fully_covered"], whole["trials"]) == (1.0, 10, 0)
    assert with_records(SPACE, 3, 0, set())["coverage_mean"] == 0.0
    part = with_records(SPACE, 10, 0, set(every[: len(every) // 2]))
    assert 0 < float(str(part["coverage_min"])) < 1


def test_the_share_that_earlier_subnets_hold_grows_from_nothing() -> None:
    rows = one_after_another(SPACE, 3, 0)
    assert [row["n"] for row in rows] == list(PLACES)
    means = [float(str(row["mean"])) for row in rows]
    assert means[0] == 0.0
    assert means == sorted(means)
    assert means[-1] == pytest.approx(1.0, abs=0.1)
    assert rows == one_after_another(SPACE, 3, 0)

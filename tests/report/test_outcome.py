"""Outcomes of searches in the store: what goes in comes out, and damage is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ofatvm.bundle.typed_json import encoded
from ofatvm.errors import StoreError
from ofatvm.report.outcome import KEY, Outcome, keep_outcome, kept_outcomes
from ofatvm.search.budget import Budget
from ofatvm.store import Store

BUDGET = Budget.__slots__


def test_what_is_kept_comes_back_the_newest_first(outcome: Outcome, tmp_path: Path) -> None:
    later = replace(outcome, when="2026-11-28T00:00:00.000+00:00", seed=8)
    with Store.open(tmp_path) as store:
        keep_outcome(store, "search-b", outcome)
        keep_outcome(store, "search-a", later)
        store.put_state("top1-c", "top1-percent", {"x": 1.0})
    with Store.open(tmp_path) as store:
        assert kept_outcomes(store) == [later, outcome]


def test_a_search_that_ends_again_replaces_its_outcome(outcome: Outcome, tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        keep_outcome(store, "search-a", outcome)
        keep_outcome(store, "search-a", replace(outcome, rounds=5))
        assert [kept.rounds for kept in kept_outcomes(store)] == [5]


def test_the_summary_leaves_the_long_lists_out(outcome: Outcome) -> None:
    summary = outcome.summary()
    assert summary["pick"]["arch"] == outcome.pick.arch
    assert not {"cloud", "forecasts"} & set(summary)


@pytest.mark.parametrize(
    "damage",
    [
        {"front": []},
        {"pick": None},
        {"when": 3},
        {"cloud": [{"arch": "x"}]},
        {"latency_baselines": {"macs": 3}},
        {"surplus": 1},
        {"budget": {"joules": 3.0}},
        {"budget": dict.fromkeys(BUDGET, -1.0)},
    ],
)
def test_what_makes_no_sense_is_one_clear_error(
    outcome: Outcome, tmp_path: Path, damage: dict[str, Any]
) -> None:
    with Store.open(tmp_path) as store:
        store.put_state("search-a", KEY, encoded(outcome) | damage)
        with pytest.raises(StoreError, match=r"the outcome of search-a .* makes no sense") as found:
            kept_outcomes(store)
    assert "\n" not in found.value.message


def test_latencies_below_zero_are_refused(outcome: Outcome, tmp_path: Path) -> None:
    value = encoded(outcome)
    value["front"][0]["latency_ms"] = -1.0
    with Store.open(tmp_path) as store:
        store.put_state("search-a", KEY, value)
        with pytest.raises(StoreError, match="above 0"):
            kept_outcomes(store)

"""The comparison with networks trained alone: several trainings of each, kept image by image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.no_retraining import config_of, difference, earlier
from ofatvm.paths import data_dir
from ofatvm.supernet.folder import DEFAULT_SUPERNET, find_supernet

RESULT = data_dir("results") / "no_retraining.json"
FOLDER = find_supernet(DEFAULT_SUPERNET)


def test_a_share_of_several_trainings_counts_as_their_mean() -> None:
    ours = np.array([True, True, True, False])
    once, twice = np.array([True, False, False, False]), np.array([True, True, False, False])
    gain, half = difference(ours, np.mean([once, twice], axis=0))
    assert gain == pytest.approx(75 - (25 + 50) / 2)
    assert half < np.mean([difference(ours, theirs)[1] for theirs in (once, twice)])


def test_what_is_kept_of_networks_alone_gives_the_told_accuracies() -> None:
    value = json.loads(RESULT.read_bytes())
    found = earlier(RESULT, config_of(FOLDER), FOLDER.data["digest"])
    assert len(found) == value["seeds"] * len(value["subnets"])
    for row in value["subnets"]:
        those = [alone for alone in found if alone.arch == row["arch"]]
        assert 100 * np.mean([alone.test for alone in those]) == pytest.approx(row["alone_percent"])
        held_out = 100 * np.mean([alone.held_out for alone in those])
        assert held_out == pytest.approx(row["alone_held_out_percent"])


def test_networks_alone_of_fewer_epochs_are_refused(tmp_path: Path) -> None:
    value = json.loads(RESULT.read_bytes())
    value["subnets"][0]["alone"][0]["epochs"] = 29
    path = tmp_path / "short.json"
    path.write_text(json.dumps(value))
    with pytest.raises(AssertionError, match="fewer epochs"):
        earlier(path, config_of(FOLDER), FOLDER.data["digest"])

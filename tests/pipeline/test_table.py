import csv
import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ofatvm.pipeline import table
from ofatvm.pipeline.table import examined, table_archs, table_csv
from ofatvm.spaces import find_space
from ofatvm.supernet.evaluate import Exam
from tests.supernet.toy import TOY, bars

EXAM = Exam(bars(8, 1), bars(21, 2), (0.2,), (0.2,))
ARCHS = [TOY.largest(), TOY.smallest(), TOY.smallest(10)]


@pytest.fixture
def asked(monkeypatch):
    """Examinations that follow from the architecture; the list of those that were made."""
    made = []

    def pretend(weights, space, exam, archs, *, on_result, on_event):
        for arch in archs:
            made.append(arch)
            on_result(arch, answers(arch))

    monkeypatch.setattr(table, "evaluate", pretend)
    return made


def answers(arch):
    return np.random.default_rng(sum(arch.encode().encode())).random(21) < 0.7


def run(journal, archs=ARCHS, weights=b"weights", exam=EXAM):
    file = journal.parent / "weights"
    file.write_bytes(weights)
    return examined(file, TOY, exam, archs, journal)


def test_the_ends_are_there_at_every_resolution_and_half_is_uniform():
    space = find_space("small28")
    archs, uniform = table_archs(space, 100, seed=0)
    assert len(set(archs)) == len(archs) == len(uniform) == 100
    for resolution in space.resolutions:
        assert {space.largest(resolution), space.smallest(resolution)} <= set(archs)
    assert 40 <= uniform.sum() <= 50
    assert archs == table_archs(space, 100, seed=0)[0]
    assert archs != table_archs(space, 100, seed=1)[0]
    depths = np.array([sum(arch.depths) for arch in archs])
    assert depths[~uniform].std() > depths[uniform].std()


def test_every_resolution_gets_its_share_and_a_small_space_gives_what_it_has():
    counts = Counter()
    for arch in table_archs(find_space("mbv3w1.0"), 200, seed=3)[0]:
        counts[arch.resolution] += 1
    assert len(counts) == 25
    assert min(counts.values()) >= 7
    archs, _ = table_archs(TOY.at(10), 1000, seed=0)
    assert len(set(archs)) == len(archs) <= TOY.size()


def test_what_the_journal_holds_is_not_examined_again(tmp_path, asked):
    journal = tmp_path / "table.jsonl"
    first = run(journal, ARCHS[:2])
    both = run(journal)
    assert asked == ARCHS
    np.testing.assert_array_equal(both[:2], first)
    np.testing.assert_array_equal(both, [answers(arch) for arch in ARCHS])


def test_a_journal_cut_anywhere_loses_only_what_was_cut(tmp_path, asked):
    journal = tmp_path / "table.jsonl"
    whole = run(journal)
    data = journal.read_bytes()
    for cut in range(0, len(data), 7):
        asked.clear()
        journal.write_bytes(data[:cut])
        np.testing.assert_array_equal(run(journal), whole)
        assert len(asked) == 3 - data[:cut].count(b'"}\n') or data[:cut].endswith(b'"}')


def test_a_line_that_is_nested_too_deep_is_left_out(tmp_path, asked):
    journal = tmp_path / "table.jsonl"
    whole = run(journal)
    journal.write_bytes(b"[" * 100_000 + b"\n" + journal.read_bytes())
    np.testing.assert_array_equal(run(journal), whole)
    assert len(asked) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"weights": b"other"},
        {"exam": replace(EXAM, mean=(0.3,))},
        {"exam": replace(EXAM, calibration=bars(8, 9))},
        {"exam": replace(EXAM, images=bars(21, 9))},
    ],
    ids=["weights", "mean", "calibration", "images"],
)
def test_results_of_another_exam_do_not_count(tmp_path, asked, other):
    journal = tmp_path / "table.jsonl"
    run(journal)
    run(journal, **other)
    assert len(asked) == 6
    run(journal)
    assert len(asked) == 6


def test_the_shipped_table_counts_right_answers():
    correct = np.array([[True, False, True], [False, False, True]])
    text = table_csv(ARCHS[:2], correct, np.array([False, True])).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[0] == {
        "arch": ARCHS[0].encode(),
        "correct": "2",
        "images": "3",
        "uniform_sample": "0",
    }
    assert rows[1]["correct"] == "1"

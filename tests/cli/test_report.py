"""`ofatvm report`: the page, the table of costs that fits, and clear refusals."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ofatvm.cli.report import energy_text, ratio_text
from ofatvm.report.outcome import KEY, Outcome, keep_outcome
from ofatvm.store import Store
from tests.pipeline.test_cost import (
    ALONE,
    ALONE_FILE,
    EVERY,
    SIBLINGS,
    SIBLINGS_FILE,
    Desk,
    session,
)
from tests.read_only import only_read

Ofatvm = Callable[..., Any]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A desk with everything on it, and the words that ask for its report."""
    monkeypatch.setattr("ofatvm.cli.report.data_dir", lambda kind: tmp_path / "shipped" / kind)
    desk = Desk(tmp_path)
    desk.journal("x86-64-v3", len(EVERY))
    big = {"trials": 110_826, "wall_s": 9000.0, "cpu_s": 17000.5, "energy_j": 170_005.0}
    desk.ledger("x86-64-v3", [session(1, **big)])
    desk.result(ALONE_FILE, ALONE)
    desk.result(SIBLINGS_FILE, SIBLINGS)
    return [
        *("report", "--cost", "--target", "x86-64-v3"),
        *("--tuning-logs", str(desk.logs), "--results", str(desk.results)),
    ]


@pytest.mark.parametrize("columns", ["80", "60", "200", None])
def test_the_table_fits(
    ofatvm: Ofatvm, words: list[str], monkeypatch: pytest.MonkeyPatch, columns: str | None
) -> None:
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    answer = ofatvm(*words)
    assert (answer.code, answer.err) == (0, "")
    assert max(map(len, answer.out.splitlines())) <= min(80, int(columns or 80))
    assert "ratio: to the space at 128, tuned once" in answer.out
    assert "break-even: from 243 networks on" in answer.out
    assert "energy: estimated" in answer.out
    if columns != "60":
        assert "110,826" in answer.out.splitlines()[4]


def test_json_is_one_object(ofatvm: Ofatvm, words: list[str]) -> None:
    answer = ofatvm(*words, "--json", "--watts-per-core", "1")
    assert answer.code == 0
    found = answer.json
    assert (found["ok"], found["baseline"]) == (True, "space at 128, tuned once")
    assert found["rows"][0]["energy_j"] == 17000.5
    assert found["rows"][0]["trials_ratio"] == 1.0


@pytest.fixture
def searched(tmp_path: Path, outcome: Outcome) -> Path:
    """A workspace in which a search has ended."""
    with Store.open(tmp_path) as store:
        keep_outcome(store, "search-1", outcome)
    return tmp_path


def test_the_page_is_written_and_named(ofatvm: Ofatvm, searched: Path, outcome: Outcome) -> None:
    answer = ofatvm("report", "--workspace", searched)
    assert (answer.code, answer.err) == (0, "")
    page = searched / "report.html"
    assert str(page) in answer.out
    assert outcome.pick.arch in page.read_text()
    elsewhere = searched / "other.html"
    found = ofatvm("report", "--workspace", searched, "--out", elsewhere, "--json").json
    assert (found["ok"], found["page"]) == (True, str(elsewhere))
    assert found["searches"][0]["pick"]["arch"] == outcome.pick.arch
    assert elsewhere.read_text().startswith("<!DOCTYPE html>")


def test_of_what_cannot_be_written_a_page_goes_elsewhere(
    ofatvm: Ofatvm, shared_folder: Path, outcome: Outcome
) -> None:
    workspace, page = shared_folder / "workspace", shared_folder / "page"
    page.mkdir()
    with Store.open(workspace) as store:
        keep_outcome(store, "search-1", outcome)
    with only_read(workspace):
        refused = ofatvm("report", "--workspace", workspace)
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1)
    assert "--out report.html" in refused.err
    page.chmod(0o777)
    with only_read(workspace):
        answer = ofatvm("report", "--workspace", workspace, "--out", page / "report.html")
    assert (answer.code, answer.err) == (0, "")
    assert outcome.pick.arch in (page / "report.html").read_text()


def test_a_workspace_without_anything_is_exit_5_and_stays_as_it_is(
    ofatvm: Ofatvm, tmp_path: Path
) -> None:
    answer = ofatvm("report", "--workspace", tmp_path / "none")
    assert (answer.code, answer.out) == (5, "")
    assert "nothing to report" in answer.err
    assert len(answer.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    Store.open(tmp_path).close()
    assert ofatvm("report", "--workspace", tmp_path).code == 5


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--target", "x86-64-v3"), "--target goes with --cost"),
        (("--threads", "1"), "--threads goes with --cost"),
        (("--cost", "--out", "page.html"), "--out does not go with --cost"),
        (("--out", "."), "--out . is a folder"),
    ],
)
def test_options_that_do_not_go_together_are_exit_2(
    ofatvm: Ofatvm, searched: Path, words: tuple[str, ...], named: str
) -> None:
    answer = ofatvm("report", "--workspace", searched, *words)
    assert (answer.code, answer.out) == (2, "")
    assert named in answer.err
    assert len(answer.err.splitlines()) == 1


def test_nothing_but_an_older_page_is_written_over(ofatvm: Ofatvm, searched: Path) -> None:
    before = (searched / "store.db").read_bytes()
    pipe = searched / "pipe.html"
    os.mkfifo(pipe)
    (searched / "notes.html").write_text("my notes")
    for name in ("store.db", "pipe.html", "notes.html", "none/page.html", "store.db/page.html"):
        answer = ofatvm("report", "--workspace", searched, "--out", searched / name)
        assert (answer.code, answer.out) == (2, ""), name
        assert f"--out {searched / name} is" in answer.err
        assert len(answer.err.splitlines()) == 1
    assert (searched / "store.db").read_bytes() == before
    assert pipe.is_fifo()
    assert (searched / "notes.html").read_text() == "my notes"
    for _ in range(2):
        assert ofatvm("report", "--workspace", searched).code == 0


def test_a_workspace_whose_name_is_no_text_has_a_page_too(
    ofatvm: Ofatvm, searched: Path, tmp_path: Path
) -> None:
    odd = tmp_path / os.fsdecode(b"ws\xff")
    odd.mkdir()
    (searched / "store.db").rename(odd / "store.db")
    assert ofatvm("report", "--workspace", odd).code == 0
    assert "ws\\udcff" in (odd / "report.html").read_text()


def test_an_outcome_that_makes_no_sense_is_one_line(ofatvm: Ofatvm, searched: Path) -> None:
    with Store.open(searched) as store:
        store.put_state("search-2", KEY, {"front": "none"})
    answer = ofatvm("report", "--workspace", searched)
    assert answer.code != 0
    assert "the outcome of search-2" in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not (searched / "report.html").exists()


def test_no_ledger_is_exit_5(ofatvm: Ofatvm, tmp_path: Path) -> None:
    words = ("report", "--cost", "--target", "x86-64-v2", "--tuning-logs", tmp_path)
    answer = ofatvm(*words)
    assert (answer.code, answer.out) == (5, "")
    assert answer.err.startswith("error: no tuning run of x86-64-v2")
    assert len(answer.err.splitlines()) == 1
    assert ofatvm(*words, "--json").json["error"]["exit_code"] == 5


@pytest.mark.parametrize("watts", ["0", "-3", "nan", "x"])
def test_bad_watts_are_exit_2(ofatvm: Ofatvm, watts: str) -> None:
    assert ofatvm("report", "--cost", "--watts-per-core", watts).code == 2


def test_figures_are_short() -> None:
    assert [energy_text(j) for j in (0.0, 13.6, 999.4, 27_000.0, 999_900.0)] == [
        *("0 J", "14 J", "999 J", "27.0 kJ", "1.0 MJ"),
    ]
    assert [ratio_text(r) for r in (1.0, 0.0, 0.134, 0.0123, 0.00042)] == [
        *("1.00", "0.00", "0.13", "0.012", "4e-04"),
    ]

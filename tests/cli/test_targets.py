"""`ofatvm targets`: what is known, one in full, this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ofatvm.cli import targets
from ofatvm.target import parse_target

Ofatvm = Callable[..., Any]


def test_the_list(ofatvm: Ofatvm) -> None:
    answer = ofatvm("targets", "--json")
    assert answer.code == 0
    rows = {row["name"]: row for row in answer.json["targets"]}
    assert {"x86-64-v2", "x86-64-v3", "x86-64-v4"} <= set(rows)
    assert rows["x86-64-v3"]["fingerprint"] == parse_target("x86-64-v3").fingerprint
    assert ofatvm("targets", "list", "--json").json == answer.json
    text = ofatvm("targets").out
    assert all(name in text for name in rows)
    assert "ofatvm targets detect" in text


def test_records_are_seen(ofatvm: Ofatvm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("full", "{}"), ("empty", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trials.jsonl").write_text(content)
    monkeypatch.setattr(targets, "data_dir", lambda kind: tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "target.json").write_text("{}")
    held = [targets.holds_records(name) for name in ("full", "empty", "none", "other")]
    assert held == [True, False, False, False]


def test_one_in_full(ofatvm: Ofatvm) -> None:
    target = ofatvm("targets", "show", "x86-64-v4", "--json").json["target"]
    assert target["tvm"] == {
        "kind": "llvm",
        "mcpu": "x86-64-v4",
        "mattr": ["-prefer-256-bit"],
        "num-cores": 2,
    }
    assert target["fingerprint"] == parse_target("x86-64-v4").fingerprint
    text = ofatvm("targets", "show", "x86-64-v4").out
    assert target["fingerprint"] in text
    assert "-prefer-256-bit" in text


def test_a_string_is_shown_too(ofatvm: Ofatvm) -> None:
    text = "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72 -num-cores=4"
    answer = ofatvm("targets", "show", text, "--json")
    assert answer.code == 0
    assert answer.json["target"]["tvm"]["mcpu"] == "cortex-a72"
    assert answer.json["target"]["records"] == []


def test_the_triple_of_a_foreign_cpu_is_filled_in(ofatvm: Ofatvm) -> None:
    answer = ofatvm("targets", "show", "llvm -mcpu=cortex-a72", "--json")
    assert answer.code == 0
    assert answer.json["target"]["mtriple"] == "aarch64-linux-gnu"
    assert answer.json["target"]["tvm"]["mtriple"] == "aarch64-linux-gnu"


def test_this_machine(ofatvm: Ofatvm) -> None:
    answer = ofatvm("targets", "detect", "--json")
    assert answer.code == 0
    target = answer.json["target"]
    assert target["mcpu"]
    assert target["num_cores"] == len(os.sched_getaffinity(0))
    assert ofatvm("targets", "show", "host", "--json").json == answer.json


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("show",), "targets show needs a name"),
        (("show", "nonsense"), "unknown target 'nonsense'"),
        (("show", ""), "the target is empty"),
        (("show", "llvm -mcpu=znver99"), "LLVM knows no CPU 'znver99'"),
        (("show", "{}"), None),
        (("list", "x86-64-v3"), "targets list takes no name"),
        (("detect", "host"), "targets detect takes no name"),
        (("frobnicate",), "frobnicate"),
        (("show", "a", "b"), "unexpected extra argument"),
    ],
)
def test_bad_words_are_exit_2(ofatvm: Ofatvm, words: tuple[str, ...], line: str | None) -> None:
    answer = ofatvm("targets", *words)
    if line is None:
        assert answer.code == 0
        return
    assert (answer.code, answer.out) == (2, "")
    assert line in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_missing_file_is_exit_5(ofatvm: Ofatvm) -> None:
    assert ofatvm("targets", "show", "no/such.toml").code == 5

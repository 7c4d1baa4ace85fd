"""`ofatvm describe`: a table, or a JSON line for each architecture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Ofatvm = Callable[..., Any]
SMALL = "mbv3w1.0/128/33.33-33.33-33.33-33.33-33.33"
LARGE = "mbv3w1.0/224/" + "-".join(["76.76.76.76"] * 5)
OFA = {"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5}


@pytest.fixture
def describe(ofatvm: Ofatvm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ofatvm:
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Any:
        return ofatvm("describe", "--target", "x86-64-v2", "-q", *words)

    return run


def rows(answer: Any) -> list[dict[str, Any]]:
    assert answer.code == 0, answer.err
    return [json.loads(line) for line in answer.out.splitlines()]


def test_json_lines(describe: Ofatvm) -> None:
    small, large = rows(describe("--json", SMALL, LARGE))
    assert set(small) == {
        *("arch", "resolution", "macs", "params", "weight_bytes", "peak_memory_bytes"),
        *("workloads", "coverage", "predicted_top1_percent"),
        *("predicted_latency_ms", "predicted_low_ms", "predicted_high_ms", "target", "threads"),
    }
    assert (small["arch"], small["resolution"]) == (SMALL, 128)
    assert small["predicted_top1_percent"] is None
    assert 70 < large["predicted_top1_percent"] < 82
    assert large["macs"] > 5 * small["macs"] > 0
    assert large["weight_bytes"] > 4 * small["params"]
    assert 0 <= small["coverage"] <= 1


def test_a_table(describe: Ofatvm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    answer = describe(SMALL, LARGE)
    lines = answer.out.splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:2] == ["M", "MACs"]
    assert lines[1].endswith(SMALL)
    assert "%" in lines[1]


def test_a_gpu_without_its_board_is_sent_to_no_search(ofatvm: Ofatvm, tmp_path: Path) -> None:
    answer = ofatvm("describe", "--target", "jetson-orin", "--workspace", tmp_path, SMALL)
    assert answer.code == 0
    assert "no latency model: nothing here runs code for jetson-orin" in answer.err
    assert "ofatvm search" not in answer.err


def test_a_narrow_table(describe: Ofatvm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = describe(SMALL, LARGE).out.splitlines()
    assert all(len(line) <= 60 for line in lines if "architecture:" not in line)
    assert any(line.strip() == f"architecture: {LARGE}" for line in lines)


@pytest.mark.parametrize("given", ["word", "option"])
def test_a_file_with_both_spellings(describe: Ofatvm, tmp_path: Path, given: str) -> None:
    path = tmp_path / "archs.txt"
    lines = [
        "\ufeff# one a line",
        SMALL,
        "",
        f"  {json.dumps(OFA | {'r': 160})}\r",
        json.dumps(OFA),
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    words = ["--file"] if given == "option" else []
    found = rows(describe("--json", *words, path))
    body = SMALL.partition("/128/")[2]
    assert [row["arch"] for row in found] == [
        f"mbv3w1.0/{resolution}/{body}" for resolution in (128, 160, 224)
    ]


def test_words_and_a_file_come_in_order(describe: Ofatvm, tmp_path: Path) -> None:
    (tmp_path / "archs.txt").write_text(SMALL)
    found = rows(describe("--json", LARGE, "--file", tmp_path / "archs.txt"))
    assert [row["arch"] for row in found] == [LARGE, SMALL]


def test_a_resolution_for_what_names_none(describe: Ofatvm) -> None:
    [found] = rows(describe("--json", "--resolution", 128, json.dumps(OFA)))
    assert found["arch"] == SMALL


def test_another_space(describe: Ofatvm) -> None:
    wide = SMALL.replace("w1.0", "w1.2")
    [found] = rows(describe("--json", "--space", "mbv3w1.2", wide))
    [narrow] = rows(describe("--json", SMALL))
    assert found["arch"] == wide
    assert found["macs"] > narrow["macs"]

"""Values of options are read or refused in one line, and targets are typed as TVM users do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from ofatvm import errors
from ofatvm.cli import options
from ofatvm.cli.render import Result

Ofatvm = Callable[..., Any]


@pytest.mark.parametrize(
    "value", ["-5", "0", "nan", "inf", "1e400", "1e9", "1_0", "twenty", "١٢", "5ms", "0x10"]
)
def test_absurd_budgets_are_refused(ofatvm: Ofatvm, body: Any, value: str) -> None:
    body(lambda run, **options: Result({}, lambda width: ""))
    answer = ofatvm("try", "--latency-ms", value, "--json")
    assert answer.code == 2
    assert answer.json["error"]["kind"] == "BudgetError"
    assert "--latency-ms" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        (options.LATENCY_MS, {"20": 20.0, "1.5e1": 15.0, "+.5": 0.5}),
        (options.MACS, {"300M": 3e8, "2.5e8": 2.5e8, "0.3G": 3e8}),
        (options.ACCURACY, {"75": 75.0, "100": 100.0}),
        (options.DURATION, {"90s": 90.0, "15m": 900.0, "2h": 7200.0, "1h30m": 5400.0}),
        (options.SEED, {"0": 0, str(2**63 - 1): 2**63 - 1}),
        (options.THREADS, {"1": 1}),
    ],
)
def test_good_values_are_read(kind: click.ParamType[Any], good: dict[str, float]) -> None:
    for text, value in good.items():
        assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (options.ACCURACY, ["101", "-1"]),
        (options.DURATION, ["90", "", "2 hours", "-1h", "0s", "99999h", "1e9s", "h"]),
        (options.SEED, ["-1", str(2**63), "1.5", "9" * 5000, "0x1"]),
        (options.THREADS, ["0", "100000", "two"]),
        (options.RESOLUTION, ["0", "224.0"]),
        (options.MACS, ["M", "1T", "1e14"]),
    ],
)
def test_bad_values_are_budget_errors(kind: click.ParamType[Any], bad: list[str]) -> None:
    for text in bad:
        with pytest.raises(errors.BudgetError) as caught:
            kind.convert(text, None, None)
        assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("typed", "target"),
    [
        (["--target", "llvm", "-mcpu=cortex-a72"], "llvm -mcpu=cortex-a72"),
        (["--target", "llvm -mcpu=cortex-a72"], "llvm -mcpu=cortex-a72"),
        (
            ["--target=llvm", "-mattr=+neon,+q", "-num-cores", "4"],
            "llvm -mattr=+neon,+q -num-cores 4",
        ),
        (["--target", "llvm", "-mcpu=x", "--json"], "llvm -mcpu=x"),
        (["--target", "host", "-q"], "host"),
    ],
)
def test_a_target_may_be_typed_unquoted(
    ofatvm: Ofatvm, body: Any, typed: list[str], target: str
) -> None:
    body(lambda run, **options: Result({"target": options["target"]}, lambda width: ""))
    assert ofatvm("try", "--json", *typed).json["target"] == target


@pytest.mark.parametrize(
    "text",
    ["raspberry-pi-4", "host", "{folder}/pi.toml", "pi.toml", '{{"kind": "llvm"}}', "./my pi.toml"],
)
@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.parametrize("place", ["before", "after"])
def test_options_behind_a_whole_target_are_refused(
    ofatvm: Ofatvm, tmp_path: Path, monkeypatch: Any, text: str, quoted: bool, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pi.toml", "my pi.toml"):
        (tmp_path / name).write_text("mcpu = 'cortex-a72'\n")
    text = text.format(folder=tmp_path)
    target = ["--target", *([f"{text} -num-cores=2"] if quoted else [text, "-num-cores=2"])]
    others = ["--space", "small28", "--resolution", "28"]
    words = [*target, *others] if place == "before" else [*others, *target]
    answer = ofatvm("describe", *words, "small28/28/32-32-32-32")
    assert (answer.code, answer.out) == (2, "")
    assert "takes no options, got '-num-cores=2'" in answer.err
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize("words", [["cortex-a72", "-mattr=+crc"], ["cortex-a72 -mattr=+crc"]])
def test_a_cpu_with_options_is_told_how_it_is_written(ofatvm: Ofatvm, words: list[str]) -> None:
    for command in (["describe", "small28/28/32-32-32-32", "--target"], ["targets", "show"]):
        answer = ofatvm(*command, *words)
        assert answer.code == 2
        assert "give 'llvm -mcpu=cortex-a72 -mattr=+crc'" in answer.err


def test_options_of_targets_belong_to_the_target_before_them() -> None:
    for words, joined in (
        (["show", "x86-64-v3", "-num-cores", "2"], ["show", "x86-64-v3 -num-cores 2"]),
        (["check", "-mcpu=x", "a.toml", "-mcpu=y"], ["check", "llvm -mcpu=x", "a.toml -mcpu=y"]),
        (["check", "--json", "-mcpu=x"], ["check", "--json", "llvm -mcpu=x"]),
        (["show", "--workspace", "w", "-mcpu=x"], ["show", "--workspace", "w", "llvm -mcpu=x"]),
    ):
        assert options.join_target(["targets", *words]) == ["targets", *joined]


def test_words_after_two_dashes_are_left_alone() -> None:
    words = ["verify", "--", "--target", "llvm", "-mcpu=x"]
    assert options.join_target(words) == words
    assert options.join_target(["--target"]) == ["--target"]

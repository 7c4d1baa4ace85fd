"""Tables, lines and progress, on terminals and elsewhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ofatvm.cli import main as main_module
from ofatvm.cli import render
from ofatvm.cli.render import Column, Progressor, Result, table
from ofatvm.errors import UsageError
from ofatvm.events import Notice, Progress, StageFinished, StageStarted

Ofatvm = Callable[..., Any]


def test_not_a_number_is_never_printed_as_json(ofatvm: Ofatvm, body: Any) -> None:
    body(lambda run, **options: Result({"x": float("nan")}, lambda width: ""))
    answer = ofatvm("try", "--json")
    assert answer.code == 1
    assert answer.json["error"]["kind"] == "InternalError"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_message_is_one_line_of_bounded_length(ofatvm: Ofatvm, body: Any, as_json: bool) -> None:
    def fails(run: Any, **options: Any) -> Result:
        run.on_event(Notice("warning", "w" * 1_000_000))
        raise UsageError("m" * 1_000_000, hint="h" * 1_000_000)

    body(fails)
    answer = ofatvm("try", *(["--json"] if as_json else []))
    assert answer.code == 2
    assert answer.err.startswith("warning: www")
    assert len(answer.err) + len(answer.out) < 20_000
    if as_json:
        assert answer.json["error"]["message"].startswith("mmm")
    else:
        assert answer.err.splitlines()[1].startswith("error: mmm")


def test_a_terminal_gets_no_orders_from_names(ofatvm: Ofatvm, body: Any) -> None:
    body(lambda run, **options: Result({}, lambda width: "a\x1b[31mb\n  c\x9b2J\r\u202ed"))
    assert ofatvm("try").out == "a [31mb\n  c 2J  d\n"


def test_characters_that_stdout_lacks_are_escaped(
    body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body(lambda run, **options: Result({}, lambda width: "2é3 \udcff"))
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main_module.main(["try"]) == 0
    assert raw.getvalue() == b"2\\xe93 \\udcff\n"


COLUMNS = [
    Column("arch", "architecture", left=True),
    Column("ms", "latency", "{:.1f} ms".format),
    Column("n", "n"),
]
ROWS = [{"arch": "mbv3/" + "33." * 20, "ms": 4.25, "n": 3}, {"arch": "b", "ms": None, "n": 12}]


def test_a_table_is_aligned() -> None:
    lines = table(ROWS, COLUMNS).splitlines()
    assert len(lines) == 3
    assert len({line.rindex(end) for line, end in zip(lines, "n32", strict=True)}) == 1
    assert lines[2].split() == ["b", "-", "12"]


def test_a_narrow_table_puts_wide_columns_below_uncut() -> None:
    lines = table(ROWS, COLUMNS, 60).splitlines()
    assert lines[0].split() == ["latency", "n"]
    assert lines[2].strip() == f"architecture: {ROWS[0]['arch']}"
    assert all(len(line) <= 60 for line in (lines[0], lines[1], lines[3]))


def test_a_narrow_table_keeps_what_its_rows_are_about() -> None:
    columns = [Column("name", "target", left=True), Column("a", "a"), Column("what", "", left=True)]
    rows = [{"name": "x" * 25, "a": "1" * 9, "what": "some words " * 9}]
    lines = table(rows, columns, 50).splitlines()
    assert lines[0].split() == ["target", "a"]
    assert lines[1].startswith("x" * 25)
    assert " ".join(" ".join(lines[2:]).split()) == ("some words " * 9).strip()
    assert len(lines) > 3
    assert all(len(line) <= 50 for line in lines)


def test_a_column_that_is_to_be_kept_leaves_last() -> None:
    columns = [Column("n", "n"), Column("top1", "a long heading", keep=True), Column("p90", "p90")]
    lines = table([{"n": 1, "top1": 2, "p90": "3" * 10}], columns, 20).splitlines()
    assert lines[0].split() == ["n", "a", "long", "heading"]
    assert lines[2] == f"    p90: {'3' * 10}"


def test_long_values_fold_and_commands_stay_whole() -> None:
    text = render.pairs({"model": "a few words " * 9, "next": "ofatvm verify " + "p " * 40}, 40)
    *folded, command = text.splitlines()
    assert len(folded) > 2
    assert all(len(line) <= 40 for line in folded)
    assert all(line.startswith(" " * 7) for line in folded[1:])
    assert command.startswith("next   ofatvm verify p p")


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in table([{"arch": "a\x1b[2J\nb", "ms": 1.0}], COLUMNS)
    assert render.one_line("a\n b\x07\udcff") == "a b  "


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress_on(stream: io.StringIO, *, quiet: bool = False) -> str:
    seconds = iter(range(1000))
    show = Progressor(stream=stream, quiet=quiet, clock=lambda: float(next(seconds)))
    show(StageStarted("tune", 40, "host"))
    for done in range(1, 31):
        show(Progress("tune", done, 40, "best 4.1 ms"))
    show(Notice("warning", "noisy\nmachine"))
    show(Notice("info", "fyi"))
    show(StageFinished("tune", "40 kernels", 75.0))
    show.close()
    return stream.getvalue()


def test_without_a_terminal_a_line_now_and_then() -> None:
    lines = progress_on(io.StringIO()).splitlines()
    assert lines[0] == "tune (of 40): host"
    assert lines[1:4] == [
        "tune 10/40, 1/s, ETA 30 s, best 4.1 ms",
        "tune 20/40, 1/s, ETA 20 s, best 4.1 ms",
        "tune 30/40, 1/s, ETA 10 s, best 4.1 ms",
    ]
    assert lines[4:] == ["warning: noisy machine", "fyi", "tune: 40 kernels done in 1m15s"]


def test_on_a_terminal_one_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = progress_on(Terminal())
    assert "\x1b[33mwarning: \x1b[0m" in text
    drawn = text.split("\x1b")[0].split("\r")
    assert len(drawn) > 60
    assert all(len(line) < 30 for line in drawn)


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in progress_on(Terminal())


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\r" not in progress_on(Terminal())


def test_quiet_leaves_warnings() -> None:
    assert progress_on(io.StringIO(), quiet=True) == "warning: noisy machine\n"


def test_a_resumed_stage_counts_only_new_steps_in_its_rate() -> None:
    seconds = iter([0.0, 100.0, 110.0])
    stream = io.StringIO()
    show = Progressor(stream=stream, clock=lambda: next(seconds))
    show(StageStarted("tune", 100))
    show(Progress("tune", 80, 100))
    show(Progress("tune", 90, 100))
    assert stream.getvalue().splitlines()[-1] == "tune 90/100, 1/s, ETA 10 s"

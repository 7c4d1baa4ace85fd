"""The one place that knows about terminals and JSON: progress on stderr, results on stdout."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ofatvm.errors import OfatvmError, shorten
from ofatvm.events import Event, Notice, Progress, StageFinished, StageStarted
from ofatvm.text import one_line, shown

SCHEMA = 1
LINE_SECONDS = 10.0
REDRAW_SECONDS = 0.1
MAX_SENTENCE = 4000
COMMANDS = ("next", "and")
"""Names that `pairs` gives to commands."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command answers.

    `data` is the JSON object, and `text(width)` the same for people (`width` None: no limit). With
    `lines`, JSON mode prints those, one object a line, and no `data`. `error` says what is wrong
    although there is an answer; it decides the exit code.
    """

    data: Mapping[str, Any]
    text: Callable[[int | None], str]
    lines: Iterable[Mapping[str, Any]] | None = None
    error: OfatvmError | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column: the rows' key, the heading, and how a value is written.

    What `keep` says leaves a table that is too wide after all others.
    """

    key: str
    title: str
    show: Callable[[Any], str] = field(default=str)
    left: bool = False
    keep: bool = False


def table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], width: int | None = None
) -> str:
    """Rows as aligned text of at most `width` characters a line; a missing value is a dash.

    When the table is too wide, the widest columns leave it, one after another, and follow each row
    on lines of their own; nothing is cut off, only dashes are left out. The first column, which
    says what a row is about, stays unless it takes more than half of the width.
    """
    cells = [[_cell(row.get(column.key), column) for column in columns] for row in rows]
    widths = [
        max([len(column.title), *(len(line[index]) for line in cells)])
        for index, column in enumerate(columns)
    ]
    inside = list(range(len(columns)))
    while width and len(inside) > 1 and sum(widths[i] + 2 for i in inside) - 2 > width:
        stays = inside[:1] == [0] and widths[0] <= width / 2
        others = inside[1:] if stays else inside
        leaving = [i for i in others if not columns[i].keep] or others
        inside.remove(max(leaving, key=lambda i: widths[i]))

    def line(values: Sequence[str]) -> str:
        parts = [
            values[i].ljust(widths[i]) if columns[i].left else values[i].rjust(widths[i])
            for i in inside
        ]
        return "  ".join(parts).rstrip()

    lines = [line([column.title for column in columns])]
    for values in cells:
        lines.append(line(values))
        for i, column in enumerate(columns):
            if i not in inside and values[i] != "-":
                label = f"{column.title}: " if column.title else ""
                lines.append(_folded(f"    {label}", values[i], width, indent=6))
    return "\n".join(lines)


def pairs(values: Mapping[str, Any], width: int | None = None) -> str:
    """`name  value` lines with the values aligned, long ones on several lines.

    Commands to be typed next stay in one, to be copied.
    """
    room = max(map(len, values), default=0)
    return "\n".join(
        _folded(
            f"{name.ljust(room)}  ", _cell(value), None if name in COMMANDS else width, room + 2
        )
        for name, value in values.items()
    )


def _folded(start: str, value: str, width: int | None, indent: int) -> str:
    """A line, or several if it is too wide, parted between words; no word is cut."""
    if not width or len(start) + len(value) <= width:
        return start + value
    return textwrap.fill(
        value,
        max(width, indent + 20),
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _cell(value: Any, column: Column | None = None) -> str:
    if value is None:
        return "-"
    return one_line(column.show(value) if column else str(value))


def seconds_text(seconds: float) -> str:
    """A time for people: 0.4 s, 12 s, 3m05s, 2h07m."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def to_json(value: Mapping[str, Any], *, indent: int | None = None) -> str:
    """A valid JSON text; paths become strings and numpy's numbers and arrays plain ones."""
    return json.dumps(value, default=_plain, allow_nan=False, indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _sentence(text: str) -> str:
    """A message as one line that a terminal can show, whatever is quoted in it."""
    return shorten(one_line(text), MAX_SENTENCE)


def error_json(error: OfatvmError, kind: str = "") -> dict[str, Any]:
    """The `error` member of JSON output."""
    described = {
        "kind": kind or type(error).__name__,
        "message": _sentence(error.message),
        "hint": _sentence(error.hint),
        "exit_code": error.exit_code,
    }
    best = getattr(error, "best", None)
    return described | ({"best": best} if best else {})


def print_error(error: OfatvmError, *, as_json: bool, kind: str = "") -> None:
    """One line on stderr, or one JSON object on stdout; where stdout takes nothing, the line."""
    if as_json:
        described = {"schema": SCHEMA, "ok": False, "error": error_json(error, kind)}
        try:
            write_stdout(to_json(described) + "\n")
            return
        except OSError:
            pass
    hint = f" ({_sentence(error.hint)})" if error.hint else ""
    label = "" if kind == "InternalError" else "error: "
    write_stderr(f"{label}{_sentence(error.message)}{hint}\n")


def print_result(result: Result, *, as_json: bool) -> None:
    """The answer on stdout, in the form that was asked for."""
    if not as_json:
        text = shown(result.text(stdout_width()))
        write_stdout(text.rstrip("\n") + "\n" if text else "")
    elif result.lines is not None:
        for entry in result.lines:
            write_stdout(to_json(entry) + "\n")
    else:
        outcome: dict[str, Any] = {"schema": SCHEMA, "ok": result.error is None, **result.data}
        if result.error is not None:
            outcome["error"] = error_json(result.error)
        write_stdout(to_json(outcome, indent=2) + "\n")


def write_stdout(text: str) -> None:
    """Write and flush; an OSError, of the file name `stdout`, if that fails."""
    try:
        _write(sys.stdout, text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "stdout") from None


def write_stderr(text: str) -> None:
    """Write and flush; a stderr that takes nothing is no reason to stop."""
    try:
        _write(sys.stderr, text)
    except OSError:
        _silence(sys.stderr)


def _write(stream: TextIO | None, text: str) -> None:
    """Write and flush, with escapes for what the stream's encoding lacks."""
    if stream is None or stream.closed:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def stdout_closed() -> bool:
    """Whether the reader of stdout has gone away, as `| head` does."""
    descriptor = _descriptor(sys.stdout)
    if descriptor is None:
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def hold_descriptors() -> None:
    """Open /dev/null where stdin, stdout or stderr was closed (`>&-`).

    Otherwise the next file opened would take its number and get what libraries print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def settle() -> None:
    """Flush stdout and stderr, and drop what cannot be written.

    The interpreter flushes them once more at its end and would complain then.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            _silence(stream)


def _silence(stream: TextIO | None) -> None:
    descriptor = _descriptor(stream)
    if descriptor is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)


def _descriptor(stream: TextIO | None) -> int | None:
    """The stream's file descriptor; None if it has none."""
    try:
        return None if stream is None or stream.closed else stream.fileno()
    except OSError:  # as a StringIO says that it has none
        return None


def is_terminal(stream: TextIO | None) -> bool:
    """Whether someone looks at the stream; a closed one is no terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def stdout_width() -> int | None:
    """Columns of the terminal (or of $COLUMNS); None when stdout goes to a file or a pipe."""
    if is_terminal(sys.stdout) or os.environ.get("COLUMNS", "").isdigit():
        return max(20, shutil.get_terminal_size().columns)
    return None


class Progressor:
    """Prints events: a live line per stage on a terminal, elsewhere a plain line now and then.

    `quiet` leaves only warnings. Times are taken from `clock`, in seconds.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stream` is stderr unless a test says otherwise."""
        self._stream = stream
        self._quiet = quiet
        self._clock = clock
        self._live = is_terminal(stream or sys.stderr) and os.environ.get("TERM") != "dumb"
        self._colour = self._live and not os.environ.get("NO_COLOR")
        self._started: dict[str, tuple[float, int]] = {}
        self._printed = -LINE_SECONDS
        self._shown = 0

    def __call__(self, event: Event) -> None:
        """Print what the event is worth."""
        now = self._clock()
        if isinstance(event, Notice):
            if event.level == "warning" or not self._quiet:
                label = self._paint("33", "warning: ") if event.level == "warning" else ""
                self._line(label + _sentence(event.text))
        elif self._quiet:
            return
        elif isinstance(event, StageStarted):
            self._started.pop(event.stage, None)
            size = f" (of {event.total})" if event.total else ""
            detail = f": {event.detail}" if event.detail else ""
            self._status(f"{event.stage}{size}{detail}", now, force=True)
        elif isinstance(event, Progress):
            self._status(self._progress(event, now), now, force=False)
        elif isinstance(event, StageFinished):
            self._started.pop(event.stage, None)
            detail = f": {event.detail}" if event.detail else ""
            done = self._paint("32", "done")
            self._line(f"{one_line(event.stage + detail)} {done} in {seconds_text(event.seconds)}")
            self._printed = now

    def close(self) -> None:
        """Remove the live line, so that what follows starts on a clean one."""
        if self._shown:
            self._write("\r" + " " * self._shown + "\r")
            self._shown = 0

    def _progress(self, event: Progress, now: float) -> str:
        """`tune 12/80, 1.3/s, ETA 52 s, best 4.1 ms`."""
        start, already = self._started.setdefault(event.stage, (now, event.done))
        parts = [f"{event.stage} {event.done}" + (f"/{event.total}" if event.total else "")]
        steps, elapsed = event.done - already, now - start
        if steps > 0 and elapsed > 0:
            rate = steps / elapsed
            parts.append(f"{rate:.3g}/s" if rate >= 1 else f"{rate * 60:.3g}/min")
            if event.total and event.total >= event.done:
                parts.append(f"ETA {seconds_text((event.total - event.done) / rate)}")
        return ", ".join([*parts, *([event.detail] if event.detail else [])])

    def _status(self, text: str, now: float, *, force: bool) -> None:
        due = now - self._printed >= (REDRAW_SECONDS if self._live else LINE_SECONDS)
        if not (due or force):
            return
        self._printed = now
        if not self._live:
            self._line(one_line(text))
            return
        room = max(10, shutil.get_terminal_size().columns - 1)
        text = one_line(text)
        text = text if len(text) <= room else text[: room - 3] + "..."
        self._write("\r" + text.ljust(self._shown) + "\r" + text)
        self._shown = len(text)

    def _line(self, text: str) -> None:
        self.close()
        self._write(text + "\n")

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def _write(self, text: str) -> None:
        if self._stream is None:
            write_stderr(text)
        else:
            self._stream.write(text)

"""Types of option values: budgets, durations, seeds. A bad value is a BudgetError in one sentence.

`@click.option("--latency-ms", type=LATENCY_MS)`; DURATION gives seconds as a float.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import click

from ofatvm.errors import BudgetError, UsageError, shorten
from ofatvm.target_text import KINDS, WORD_OPTIONS, takes

# Bounded, since what was typed may be of any length.
NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,4})?", re.ASCII)
PART = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)(ms|s|min|m|h|d)", re.ASCII)
MAX_DURATION = 200
_OPTION = re.compile(r"-[A-Za-z]{2}")
_TARGET_WORD = re.compile(rf"-({'|'.join(WORD_OPTIONS)})(=|$)")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class PositiveNumber(click.ParamType[float]):
    """A positive finite number up to `upper`; `1.5e3` is fine, `nan`, `inf` and `1_0` are not."""

    name = "number"

    def __init__(self, unit: str, upper: float, *, suffixes: dict[str, float] | None = None):
        """`suffixes` are letters after the number and what they multiply it by.

        A number that has no unit has an empty one.
        """
        self.unit = unit
        self.upper = upper
        self.suffixes = suffixes or {}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number as a float."""
        text = str(value).strip()
        factor = 1.0
        if text[-1:] in self.suffixes:
            text, factor = text[:-1], self.suffixes[text[-1]]
        if not NUMBER.fullmatch(text):
            raise BudgetError(
                f"{_label(param)} must be a number{self.unit and ' of '}{self.unit}, "
                f"got {shorten(value, 40)!r}"
            )
        number = float(text) * factor
        if not 0 < number <= self.upper:
            most = f"{self.upper:g} {self.unit}".rstrip()
            raise BudgetError(
                f"{_label(param)} must be above 0 and at most {most}, got {shorten(value, 40)}"
            )
        return number


class WholeNumber(click.ParamType[int]):
    """A whole number from `lower` to `upper`, in decimal digits only."""

    name = "integer"

    def __init__(self, lower: int, upper: int):
        """Both bounds are allowed values."""
        self.lower = lower
        self.upper = upper

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number as an int."""
        text = str(value).strip()
        rule = f"{_label(param)} must be a whole number from {self.lower} to {self.upper}"
        if not re.fullmatch(r"[+-]?\d{1,30}", text, re.ASCII):
            raise BudgetError(f"{rule}, got {shorten(value, 40)!r}")
        if not self.lower <= int(text) <= self.upper:
            raise BudgetError(f"{rule}, got {int(text)}")
        return int(text)


class Duration(click.ParamType[float]):
    """A time like `90s`, `15m`, `2h` or `1h30m`, in seconds; the unit is a must."""

    name = "duration"

    def __init__(self, upper: float):
        """`upper` is the longest time allowed, in seconds."""
        self.upper = upper

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The time in seconds."""
        if isinstance(value, float):  # a default, already converted
            return value
        text = str(value).strip()
        parts = PART.findall(text[:MAX_DURATION])
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise BudgetError(
                f"{_label(param)} must be a time such as 90s, 15m or 2h, got {shorten(value, 40)!r}"
            )
        seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
        if not 0 < seconds <= self.upper:
            raise BudgetError(
                f"{_label(param)} must be above 0 and at most {self.upper / 3600:g}h, "
                f"got {shorten(value, 40)}"
            )
        return seconds


class Share(click.ParamType[float]):
    """A number from 0 to below 1."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number as a float."""
        text = str(value).strip()
        if not NUMBER.fullmatch(text) or not 0 <= float(text) < 1:
            raise BudgetError(
                f"{_label(param)} must be a number from 0 to below 1, got {shorten(value, 40)!r}"
            )
        return float(text)


LATENCY_MS = PositiveNumber("milliseconds", 1e6)
SIZE_MB = PositiveNumber("megabytes", 1e5)
MACS = PositiveNumber("multiply-accumulates", 1e13, suffixes={"K": 1e3, "M": 1e6, "G": 1e9})
ACCURACY = PositiveNumber("percent", 100)
DURATION = Duration(30 * 86400.0)
SHARE = Share()
RESOLUTION = WholeNumber(1, 4096)
THREADS = WholeNumber(1, 1024)
COUNT = WholeNumber(1, 10_000_000)
SUBNETS = WholeNumber(1, 10_000)
SEED = WholeNumber(0, 2**63 - 1)


def move_ir(arguments: list[str]) -> list[str]:
    """Let `ofatvm --ir relay COMMAND ...` mean `ofatvm COMMAND --ir relay ...`."""
    count = (
        2 if arguments[:1] == ["--ir"] else 1 if "".join(arguments[:1]).startswith("--ir=") else 0
    )
    if not count or len(arguments) <= count or arguments[count].startswith("-"):
        return arguments
    return [arguments[count], *arguments[:count], *arguments[count + 1 :]]


def refuse_empty(arguments: list[str]) -> None:
    """UsageError for an option whose value is empty, as an unset shell variable leaves it.

    Read as a path, it would be the current folder.
    """
    words = arguments[: arguments.index("--") if "--" in arguments else None]
    apart = [(word, value) for word, value in pairwise(words) if "=" not in word]
    joined = [
        (option, value) for option, equals, value in (w.partition("=") for w in words) if equals
    ]
    for option, value in (*apart, *joined):
        if option.startswith("--") and not value.strip():
            raise UsageError(f"{option} is empty", hint="give a value, or leave it out")


def join_target(arguments: list[str]) -> list[str]:
    """Make `--target llvm -mcpu=cortex-a72 -num-cores 4` one value, as if it had been quoted.

    After the value of --target, words with one dash and more than one letter belong to it, and so
    do the words that are values of such an option. `targets show` and `targets check` take targets
    without --target: there, llvm, cuda, or such an option begins one, but behind another target it
    belongs to that one.
    """
    joined: list[str] = []
    rest = list(arguments)
    bare = rest[:1] == ["targets"]
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*joined, word, *rest]
        joined.append(word)
        if word == "--target" and rest:
            joined.append(rest.pop(0))
        elif bare and _OPTION.match(word):
            rest.insert(0, joined.pop())
            if not _ends_in_target(joined):
                joined.append("llvm")
        elif not word.startswith("--target=") and not (bare and word in KINDS):
            continue
        while rest and _OPTION.match(rest[0]):
            option = rest.pop(0)
            joined[-1] += f" {option}"
            if rest and takes(option, rest[0]):
                joined[-1] += f" {rest.pop(0)}"
    return joined


def _ends_in_target(words: list[str]) -> bool:
    """Whether the last of the words of `ofatvm targets ...` is a target, as far as can be seen."""
    action = len(words) < 3
    return not (action or words[-1].startswith("-") or words[-2] == "--workspace")


def refuse_stray(arguments: list[str]) -> None:
    """UsageError for an option of a target string that does not stand behind --target."""
    words = arguments[: arguments.index("--") if "--" in arguments else None]
    for before, word in pairwise(["", *words]):
        if before != "--target" and _TARGET_WORD.match(word):
            raise UsageError(
                f"{shorten(word, 80)} is an option of a target",
                hint="it stands right behind --target, as in --target llvm -mcpu=cortex-a72",
            )


def _label(param: click.Parameter | None) -> str:
    return max(param.opts, key=len) if param is not None and param.opts else "value"

"""Scatter charts as geometry: where every mark of an inline SVG stands, in its pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 14, 48
MARGIN = 0.05  # of the span, left free at either end
NEAR = 1.0  # spans of what is shown, within which a limit is drawn, too
TICKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point in the units of the axes; `low` and `high` are the ends of its bar along x or y."""

    x: float
    y: float
    title: str
    style: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """A mark in pixels, with its bar as (x1, y1, x2, y2)."""

    x: float
    y: float
    title: str
    style: str
    bar: tuple[float, float, float, float] | None


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Everything the template draws, in pixels: `line` is a path, `x_limit` an upright line.

    A limit is None where there is none, or where it is too far off to be drawn.
    """

    title: str
    x_name: str
    y_name: str
    marks: tuple[Drawn, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    line: tuple[tuple[float, float], ...] = ()
    x_limit: float | None = None
    y_limit: float | None = None
    width: int = WIDTH
    height: int = HEIGHT
    frame: tuple[int, int, int, int] = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)


@dataclass(frozen=True, slots=True)
class Axis:
    """A span of values laid over a span of pixels."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> Axis:
        """An axis on which all values have a place, with a margin; equal ones stand in its middle.

        ValueError if there is none.
        """
        low, high = min(values), max(values)
        # Ten digits more than a float holds apart would be no span.
        span = (high - low) if high - low > 1e-9 * max(abs(low), abs(high)) else abs(high) or 1.0
        return cls(low - MARGIN * span, high + MARGIN * span, start, end)

    def __call__(self, value: float) -> float:
        """The pixel of a value, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> tuple[Tick, ...]:
        """Round values inside, some `TICKS` of them: steps are 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return tuple(Tick(self(i * step), f"{i * step:.{digits}f}") for i in range(first, last + 1))


def scatter(
    marks: Sequence[Mark],
    *,
    title: str,
    x_name: str,
    y_name: str,
    line: Sequence[tuple[float, float]] = (),
    x_limit: float | None = None,
    y_limit: float | None = None,
    bars: str = "x",
) -> Chart:
    """Lay out marks over `line`, a path, and limits, all in the axes' units.

    `bars` says along which axis the bars lie. What they reach is inside, and so is a limit, unless
    it is so far off that all else would be squashed: then it is left out.
    """
    ends = [end for mark in marks for end in (mark.low, mark.high) if end is not None]
    xs, ys = (
        [m.x for m in marks] + [x for x, _ in line],
        [m.y for m in marks] + [y for _, y in line],
    )
    (xs if bars == "x" else ys).extend(ends)
    x_limit, y_limit = _near(x_limit, xs), _near(y_limit, ys)
    x = Axis.over(xs + ([] if x_limit is None else [x_limit]), LEFT, WIDTH - RIGHT)
    y = Axis.over(ys + ([] if y_limit is None else [y_limit]), HEIGHT - BOTTOM, TOP)

    def bar(mark: Mark) -> tuple[float, float, float, float] | None:
        if mark.low is None or mark.high is None:
            return None
        if bars == "x":
            return x(mark.low), y(mark.y), x(mark.high), y(mark.y)
        return x(mark.x), y(mark.low), x(mark.x), y(mark.high)

    return Chart(
        title=title,
        x_name=x_name,
        y_name=y_name,
        marks=tuple(Drawn(x(m.x), y(m.y), m.title, m.style, bar(m)) for m in marks),
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        line=tuple((x(a), y(b)) for a, b in line),
        x_limit=None if x_limit is None else x(x_limit),
        y_limit=None if y_limit is None else y(y_limit),
    )


def _near(limit: float | None, values: Sequence[float]) -> float | None:
    """The limit if it lies among the values, or not much farther off than they reach."""
    if limit is None:
        return None
    around = Axis.over(values, 0.0, 1.0)
    span = (around.high - around.low) / (1 + 2 * MARGIN)
    low, high = min(values), max(values)
    return limit if low - NEAR * span <= limit <= high + NEAR * span else None

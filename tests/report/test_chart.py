"""Charts: everything that is to be seen lies inside the frame, and axes are labelled truly."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ofatvm.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Mark, scatter

values = st.floats(-1e9, 1e9, allow_nan=False).map(lambda v: 0.0 if abs(v) < 1e-9 else v)


def mark(x: float, y: float, low: float | None = None, high: float | None = None) -> Mark:
    return Mark(x=x, y=y, title="", style="dot", low=low, high=high)


@given(st.lists(st.tuples(values, values), min_size=1, max_size=20))
def test_every_mark_is_inside_the_frame(places: list[tuple[float, float]]) -> None:
    chart = scatter([mark(x, y) for x, y in places], title="t", x_name="x", y_name="y")
    for drawn in chart.marks:
        assert LEFT <= drawn.x <= WIDTH - RIGHT
        assert TOP <= drawn.y <= HEIGHT - BOTTOM


@given(st.lists(values, min_size=1, max_size=20))
def test_ticks_are_inside_evenly_spaced_and_tell_the_truth(found: list[float]) -> None:
    axis = Axis.over(found, 0, 500)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8
    for tick in ticks:
        assert -0.1 <= tick.at <= 500.1
        # The label names the value at this place, to a few pixels.
        assert math.isclose(axis(float(tick.label)), tick.at, abs_tol=0.2)
    gaps = [b.at - a.at for a, b in pairwise(ticks)]
    assert max(gaps) - min(gaps) <= 0.3
    assert len({tick.label for tick in ticks}) == len(ticks)


def test_larger_values_are_further_right_and_higher_up() -> None:
    chart = scatter([mark(1, 1), mark(2, 3)], title="t", x_name="x", y_name="y")
    first, second = chart.marks
    assert first.x < second.x
    assert first.y > second.y, "pixels count downwards"


def test_bars_limits_and_the_line_have_a_place() -> None:
    chart = scatter(
        [mark(1, 1, low=0.5, high=4)],
        title="t",
        x_name="x",
        y_name="y",
        line=[(1, 1), (2, 9)],
        x_limit=6,
        y_limit=-3,
    )
    (drawn,) = chart.marks
    assert drawn.bar is not None
    left, height, right, other = drawn.bar
    assert LEFT <= left < drawn.x < right < (chart.x_limit or 0) <= WIDTH - RIGHT
    assert height == other == drawn.y
    assert chart.line[1][1] < drawn.y < (chart.y_limit or 0) <= HEIGHT - BOTTOM


@given(st.lists(values, min_size=1, max_size=9), st.sampled_from([-1e12, 1e12]))
def test_a_limit_far_off_squashes_nothing(found: list[float], limit: float) -> None:
    marks = [mark(value, value) for value in found]
    plain = scatter(marks, title="t", x_name="x", y_name="y")
    assert scatter(marks, title="t", x_name="x", y_name="y", x_limit=limit, y_limit=limit) == plain


def test_bars_may_stand_upright() -> None:
    chart = scatter([mark(1, 2, low=1, high=3)], title="t", x_name="x", y_name="y", bars="y")
    (drawn,) = chart.marks
    assert drawn.bar is not None
    assert drawn.bar[0] == drawn.bar[2] == drawn.x
    assert drawn.bar[1] > drawn.y > drawn.bar[3]

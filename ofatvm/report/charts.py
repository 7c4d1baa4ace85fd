"""The charts of one search: what it found, and how well latencies were predicted."""

from __future__ import annotations

from ofatvm.report.chart import Chart, Mark, scatter
from ofatvm.report.outcome import FrontPoint, Outcome


def front_chart(outcome: Outcome) -> Chart:
    """Accuracy over latency: the front, the pick, and the subnets tried on the way.

    Of those tried on the way the accuracy is predicted; where the front's is measured, those
    are two different things, and drawn apart.
    """
    pick = outcome.pick
    marks = [
        Mark(
            x=dot.latency_ms,
            y=dot.predicted_accuracy_percent,
            title=f"{dot.arch}: {dot.latency_ms:.4g} ms {pick.latency_kind}, "
            f"{dot.predicted_accuracy_percent:.2f} % predicted",
            style="dot",
        )
        for dot in outcome.cloud
    ]
    marks += [
        Mark(
            x=point.latency_ms,
            y=point.accuracy_percent,
            title=_title(point),
            style="pick" if point == pick else "front",
            low=point.ci_low_ms,
            high=point.ci_high_ms,
        )
        for point in outcome.front
    ]
    return scatter(
        marks,
        title="accuracy over latency",
        x_name=f"latency, ms {pick.latency_kind}",
        y_name="top-1, %",
        line=[(point.latency_ms, point.accuracy_percent) for point in outcome.front],
        x_limit=outcome.budget.latency_ms,
        y_limit=outcome.budget.min_accuracy,
    )


def forecast_chart(outcome: Outcome) -> Chart | None:
    """Predicted over measured or simulated latencies, predicted beforehand; None without any."""
    if not outcome.forecasts:
        return None
    marks = [
        Mark(
            x=f.latency_ms,
            y=f.predicted_ms,
            title=f"{f.arch}: {f.predicted_ms:.4g} ms predicted, {f.latency_ms:.4g} ms "
            f"{outcome.pick.latency_kind}",
            style="front",
            low=f.low_ms,
            high=f.high_ms,
        )
        for f in outcome.forecasts
    ]
    both = [v for f in outcome.forecasts for v in (f.latency_ms, f.predicted_ms)]
    ends = min(both), max(both)
    return scatter(
        marks,
        title=f"predicted over {outcome.pick.latency_kind} latency",
        x_name=f"ms {outcome.pick.latency_kind}",
        y_name="ms predicted",
        line=[(end, end) for end in ends],
        bars="y",
    )


def _title(point: FrontPoint) -> str:
    return (
        f"{point.arch}: {point.latency_ms:.4g} ms {point.latency_kind}, "
        f"{point.accuracy_percent:.2f} % {point.accuracy_kind}"
    )

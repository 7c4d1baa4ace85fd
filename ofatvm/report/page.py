"""The page: what a workspace holds, gathered from its store and written as one HTML file."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from ofatvm import __version__
from ofatvm.measurement import now
from ofatvm.predict.report import ErrorReport
from ofatvm.report.chart import Chart
from ofatvm.report.charts import forecast_chart, front_chart
from ofatvm.report.outcome import Outcome, kept_outcomes
from ofatvm.search.budget import Budget
from ofatvm.store import Holding, Store

TEMPLATE = "page.html.j2"
LIMITS = {
    "latency_ms": "{:g} ms",
    "macs": "{:,.0f} MACs",
    "size_mb": "{:g} MB of weights",
    "peak_memory_mb": "{:g} MB of activations",
    "min_accuracy": "at least {:g} % top-1",
}


@dataclass(frozen=True, slots=True)
class Held:
    """Measurements of one sort, how many were unstable, and how wide their 95 % intervals are.

    `half_width_percent` is the median half width; None where nothing has an interval.
    """

    holding: Holding
    target_name: str
    unstable: int
    half_width_percent: float | None
    tools: str


@dataclass(frozen=True, slots=True)
class Section:
    """One search on the page."""

    outcome: Outcome
    budget: str
    front: Chart
    not_drawn: str
    forecast: Chart | None
    models: tuple[tuple[str, ErrorReport], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything on the page."""

    workspace: str
    when: str
    version: str
    sections: tuple[Section, ...]
    held: tuple[Held, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.sections and not self.held


def gather(store: Store, workspace: Path) -> Report:
    """Read all finished searches and all measurements; StoreError if something is damaged."""
    outcomes = kept_outcomes(store)
    names = {outcome.fingerprint: outcome.target for outcome in outcomes}
    return Report(
        workspace=str(workspace),
        when=now(),
        version=__version__,
        sections=tuple(_section(outcome) for outcome in outcomes),
        held=tuple(_held(store, holding, names) for holding in store.holdings()),
    )


def render(report: Report) -> str:
    """The page, with everything it needs inside."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ofatvm", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(report=report)


def _section(outcome: Outcome) -> Section:
    # Its interval is as wide as these errors ask for: only forecasts can tell whether it holds.
    fitted = replace(outcome.latency_model, coverage=None)
    models = [("ofatvm", fitted), *outcome.latency_baselines.items()]
    if outcome.forecast is not None:
        models.append(("ofatvm, predicted beforehand", outcome.forecast))
    front, budget = front_chart(outcome), outcome.budget
    far = Budget(
        latency_ms=budget.latency_ms if front.x_limit is None else None,
        min_accuracy=budget.min_accuracy if front.y_limit is None else None,
    )
    return Section(
        outcome=outcome,
        budget=budget_text(budget),
        front=front,
        not_drawn=budget_text(far) if far.limits() else "",
        forecast=forecast_chart(outcome),
        models=tuple(models),
    )


def budget_text(budget: Budget) -> str:
    """A budget for people."""
    return (
        ", ".join(LIMITS[name].format(value) for name, value in budget.limits().items()) or "none"
    )


def _held(store: Store, holding: Holding, names: Mapping[str, str]) -> Held:
    found = [
        m
        for m in store.measurements(
            target=holding.target,
            space=holding.space,
            threads=holding.threads,
            kind=holding.kind,
            source=holding.source,
        )
        if m.latency_ms is not None
    ]
    widths = [
        50 * (m.ci_high_ms - m.ci_low_ms) / m.latency_ms
        for m in found
        if m.latency_ms and m.ci_low_ms is not None and m.ci_high_ms is not None
    ]
    return Held(
        holding=holding,
        target_name=names.get(holding.target, holding.target),
        unstable=sum(m.unstable for m in found),
        half_width_percent=statistics.median(widths) if widths else None,
        tools=_tools([m.versions for m in found]),
    )


def _tools(versions: Sequence[Mapping[str, Any]]) -> str:
    """Each tool with every version of it that something was measured with."""
    found: dict[str, set[str]] = {}
    for entry in versions:
        for name, version in entry.items():
            found.setdefault(name, set()).add(str(version))
    return ", ".join(f"{name} {' and '.join(sorted(found[name]))}" for name in sorted(found))

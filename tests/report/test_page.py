"""The page: whole, self-contained, safe, and with the figures that the store holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ofatvm.measurement import Measurement
from ofatvm.report.outcome import Outcome, keep_outcome
from ofatvm.report.page import gather, render
from ofatvm.search.budget import Budget
from ofatvm.store import Store
from tests.outcomes import point

Make = Callable[..., Measurement]
VOID = {"meta", "br", "hr", "img", "link"}


class Checker(HTMLParser):
    """Collects the text, and sees that every element is closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def checked(page: str) -> str:
    """The page's text, its white space made single."""
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert not {"script", "link", "img", "iframe"} & set(checker.tags)
    return " ".join(" ".join(checker.words).split())


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., str]:
    """The page of a workspace with these outcomes and measurements."""

    def make(*outcomes: Outcome, measurements: tuple[Measurement, ...] = ()) -> str:
        with Store.open(tmp_path) as store:
            for number, outcome in enumerate(outcomes):
                keep_outcome(store, f"search-{number}", outcome)
            for measurement in measurements:
                store.add_measurement(measurement)
            return render(gather(store, Path("here")))

    return make


def test_a_search_is_told_with_its_figures_and_their_kinds(
    outcome: Outcome, page: Callable[..., str]
) -> None:
    text = checked(page(outcome))
    assert "cortex-a72, 4 threads, local: small28_d123_e234_k35" in text
    assert "93.25 % top-1 measured on 10,000 held-out images, 0.0275 ms measured." in text
    assert "0.03 ms, at least 91 % top-1" in text
    for arch in (p.arch for p in outcome.front):
        assert arch in text
    for figure in ("1.5 %", "14.5 %", "3.5 %", "2.5 %", "0.987"):
        assert figure in text, "all models stand side by side"
    assert "predicted beforehand" in text
    assert "unstable" not in text


def test_charts_hold_every_network_once(outcome: Outcome, page: Callable[..., str]) -> None:
    charts = [
        ElementTree.fromstring(svg)
        for svg in re.findall(r"<svg.*?</svg>", page(outcome), re.DOTALL)
    ]
    assert len(charts) == 2
    styles = [[c.attrib["class"] for c in chart.iter("circle")] for chart in charts]
    assert sorted(styles[0]) == ["dot", "front", "pick"]
    assert styles[1] == ["front"]
    titles = [t.text or "" for t in charts[0].iter("title")]
    assert sum("0.02 ms measured, 92.00 % predicted" in title for title in titles) == 1
    assert sum("the budget" in title for title in titles) == 2


def test_a_budget_far_from_all_networks_is_said_and_not_drawn(
    outcome: Outcome, page: Callable[..., str]
) -> None:
    made = page(replace(outcome, budget=Budget(latency_ms=20.0, min_accuracy=1.0)))
    assert 'class="limit"' not in made
    text = checked(made)
    assert "Dashed" not in text
    assert "Of the budget, 20 ms, at least 1 % top-1 is far outside and not drawn." in text
    made = page(replace(outcome, budget=Budget(latency_ms=0.03, min_accuracy=1.0)))
    assert made.count('class="limit"') == 1
    assert "Of the budget, at least 1 % top-1 is far outside" in checked(made)


def test_what_is_simulated_or_predicted_is_called_so(
    outcome: Outcome, page: Callable[..., str]
) -> None:
    only = point(
        "a",
        75.0,
        30.0,
        latency_kind="simulated",
        accuracy_kind="predicted",
        accuracy_images=None,
        ci_low_ms=None,
        ci_high_ms=None,
        p90_ms=None,
    )
    alone = replace(outcome, front=(only,), pick=only, budget=Budget(), forecast=None, forecasts=())
    text = checked(page(alone))
    assert "75.00 % top-1 predicted, 30 ms simulated." in text
    assert "61 subnets simulated in 2 rounds" in text
    assert "timed" not in text.replace("Measured is timed", "")
    assert "beforehand" not in text
    assert "budget none" in text


def test_markup_in_the_store_stays_text(outcome: Outcome, page: Callable[..., str]) -> None:
    evil = "<script>alert(1)</script>\"'><b>"
    changed = replace(outcome, target=evil, weights=evil, versions={evil: evil}, bundle=evil)
    assert evil in checked(page(changed))


def test_measurements_are_summed_up_by_sort(
    outcome: Outcome, page: Callable[..., str], make_measurement: Make
) -> None:
    good: dict[str, Any] = {"ci_low_ms": 9.8, "ci_high_ms": 10.2, "latency_ms": 10.0}
    held = (
        make_measurement(target=outcome.fingerprint, **good),
        make_measurement(target=outcome.fingerprint, unstable=True, **good),
        make_measurement(target=outcome.fingerprint, latency_ms=None, error="it crashed"),
    )
    text = checked(page(outcome, measurements=held))
    row = text[text.index("All latencies held") :]
    assert "cortex-a72" in row, "a target is called by its name"
    assert " 3 1 1 2.00 % " in row, "subnets, failed, unstable, half width"


def test_without_a_finished_search_the_way_to_one_is_said(
    page: Callable[..., str], make_measurement: Make
) -> None:
    text = checked(page(measurements=(make_measurement(),)))
    assert "No search has finished" in text
    assert "ofatvm search --target host" in text

"""The measuring protocol: how visits to a device become one latency with its spread.

A *visit* runs one program for a block of calls, between two runs of a yardstick. Visits
of several programs are interleaved in random order, in rounds, in one or more fresh processes. A
visit's latency is the median of its calls divided by how much slower than their reference the
yardstick ran; the headline is the median over visits, its interval a bootstrap over
visits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofatvm.errors import BudgetError

BOOTSTRAP = 1000
MAX_DRIFT = 1.10
MIN_CALM = 3
MAX_HALF_WIDTH = 0.05


@dataclass(frozen=True, slots=True)
class Protocol:
    """How thoroughly to measure: processes x rounds visits of `block_ms` each.

    A process stops early once every program's confidence interval is within `half_width` of its
    median.
    """

    processes: int
    rounds: int
    block_ms: float
    warmup_ms: float
    half_width: float = 0.02

    def __post_init__(self) -> None:
        """All numbers must be positive."""
        if min(self.processes, self.rounds, self.block_ms, self.warmup_ms, self.half_width) <= 0:
            raise BudgetError(f"every number of a measuring protocol must be positive: {self}")


SAMPLE = Protocol(processes=1, rounds=4, block_ms=30.0, warmup_ms=8.0)
FINAL = Protocol(processes=5, rounds=7, block_ms=100.0, warmup_ms=50.0)


@dataclass(frozen=True, slots=True)
class Visit:
    """Seconds of each call, and the yardstick's seconds before and after.

    `round` numbers the rounds over all processes.
    """

    process: int
    calls_s: tuple[float, ...]
    calibration_s: tuple[float, float]
    round: int = 0


@dataclass(frozen=True, slots=True)
class Latency:
    """What a program's visits say, normalised by the yardstick; milliseconds.

    `ci_low_ms`..`ci_high_ms`: 95 % bootstrap interval of the median. `calibration_ratio`: the
    machine's speed in these visits relative to the reference. `unstable`: the yardstick drifted by
    more than 10 % between the calmest and the busiest tenth of the visits, or the interval is wider
    than 5 % to a side.
    """

    latency_ms: float
    p90_ms: float
    raw_ms: float
    ci_low_ms: float
    ci_high_ms: float
    visits_ms: tuple[float, ...]
    calls: int
    calibration_ratio: float
    unstable: bool

    @property
    def half_width(self) -> float:
        """Half of the interval relative to the median."""
        return (self.ci_high_ms - self.ci_low_ms) / 2 / self.latency_ms


def calm_rounds(visits: Sequence[Sequence[Visit]]) -> list[list[Visit]]:
    """The visits of every program without the rounds in which the machine was disturbed.

    A round is disturbed when the yardstick ran more than 10 % slower in one of its visits
    than in the calmest round. It is left out for all programs, never for one, as long as half of
    the rounds and at least three remain; otherwise everything is kept.
    """
    worst: dict[int, float] = {}
    for visit in (visit for found in visits for visit in found):
        worst[visit.round] = max(worst.get(visit.round, 0.0), max(visit.calibration_s))
    limit = MAX_DRIFT * min(worst.values(), default=0.0)
    calm = {number for number, slowest in worst.items() if slowest <= limit}
    if len(calm) < max(MIN_CALM, len(worst) / 2):
        return [list(found) for found in visits]
    return [[visit for visit in found if visit.round in calm] or list(found) for found in visits]


def summarise(visits: Sequence[Visit], reference_s: float) -> Latency:
    """Combine one program's visits; `reference_s` is the yardstick's undisturbed time."""
    slowdowns = np.array([sum(visit.calibration_s) / 2 / reference_s for visit in visits])
    medians = np.array([float(np.median(visit.calls_s)) for visit in visits])
    normal = medians / slowdowns * 1e3
    calls = np.concatenate(
        [np.array(visit.calls_s) / slow for visit, slow in zip(visits, slowdowns, strict=True)]
    )
    low, high = _bootstrap(normal, np.array([visit.process for visit in visits]))
    latency = float(np.median(normal))
    calmest, busiest = np.percentile(slowdowns, (10, 90), method="nearest")
    return Latency(
        latency_ms=latency,
        p90_ms=float(np.percentile(calls, 90) * 1e3),
        raw_ms=float(np.median(medians) * 1e3),
        ci_low_ms=min(low, latency),
        ci_high_ms=max(high, latency),
        visits_ms=tuple(float(value) for value in normal),
        calls=len(calls),
        calibration_ratio=float(1 / np.median(slowdowns)),
        unstable=bool(busiest / calmest > MAX_DRIFT or (high - low) / 2 / latency > MAX_HALF_WIDTH),
    )


def _bootstrap(values: np.ndarray, processes: np.ndarray) -> tuple[float, float]:
    """95 % interval of the median; resamples processes where there are several, else visits."""
    rng = np.random.default_rng(0)
    groups = [values[processes == process] for process in np.unique(processes)]
    if len(groups) < 3:
        picks = rng.integers(len(values), size=(BOOTSTRAP, len(values)))
        medians = np.median(values[picks], axis=1)
    else:
        picks = rng.integers(len(groups), size=(BOOTSTRAP, len(groups)))
        medians = np.array([np.median(np.concatenate([groups[i] for i in row])) for row in picks])
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(high)

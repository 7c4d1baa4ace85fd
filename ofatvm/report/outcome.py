"""`Outcome`: what a search found, as it is kept in the store for the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ofatvm.bundle.manifest import Accuracy, Agreement
from ofatvm.bundle.typed_json import decoded, encoded, require
from ofatvm.errors import BudgetError, BundleError, StoreError
from ofatvm.measurement import Kind
from ofatvm.predict.report import ErrorReport
from ofatvm.road import Ir
from ofatvm.search.budget import Budget
from ofatvm.store import Store

KEY = "outcome"
LISTS = ("cloud", "forecasts")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One network of the front. `visits` is how many samples the latency is the median of."""

    arch: str
    accuracy_percent: float
    accuracy_kind: Literal["measured", "predicted"]
    accuracy_images: int | None
    predicted_accuracy_percent: float
    latency_ms: float
    latency_kind: Kind
    ci_low_ms: float | None
    ci_high_ms: float | None
    p90_ms: float | None
    visits: int
    unstable: bool
    predicted_latency_ms: float
    macs: int
    size_bytes: int
    peak_memory_bytes: int
    coverage: float

    def __post_init__(self) -> None:
        """What is drawn on an axis must have a place there."""
        require(self.latency_ms > 0, f"a latency must be above 0, got {self.latency_ms}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A subnet that was measured or simulated on the way, and its accuracy as predicted."""

    arch: str
    latency_ms: float
    predicted_accuracy_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A latency as predicted, with its 90 % interval, before it was measured or simulated."""

    arch: str
    predicted_ms: float
    low_ms: float
    high_ms: float
    latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A finished search.

    `records` says how many tuning records came from which target. `latency_model` and
    `latency_baselines` are out-of-fold errors over all measured (or simulated) subnets, `forecast`
    the errors of `forecasts`: None if no subnet came after the first fit.
    """

    when: str
    target: str
    fingerprint: str
    threads: int
    device: str
    space: str
    resolution: int
    budget: Budget
    seed: int
    weights: str
    ir: Ir
    records: dict[str, int]
    front: tuple[FrontPoint, ...]
    pick: FrontPoint
    bundle: str
    bundle_accuracy: Accuracy | None
    agreement: Agreement | None
    measured_subnets: int
    evaluated_candidates: int
    rounds: int
    latency_model: ErrorReport
    latency_baselines: dict[str, ErrorReport]
    forecast: ErrorReport | None
    versions: dict[str, str]
    cloud: tuple[Dot, ...] = field(repr=False)
    forecasts: tuple[Forecast, ...] = field(repr=False)

    def __post_init__(self) -> None:
        """A front has a pick."""
        require(self.pick in self.front, "the pick is not on the front")

    def summary(self) -> dict[str, Any]:
        """All but the long lists, as JSON values."""
        value: dict[str, Any] = encoded(self)
        return {name: item for name, item in value.items() if name not in LISTS}


def keep_outcome(store: Store, run: str, outcome: Outcome) -> None:
    """Commit the outcome of a run, over an earlier one."""
    store.put_state(run, KEY, encoded(outcome))


def kept_outcomes(store: Store) -> list[Outcome]:
    """The outcomes of all finished searches, the newest first; StoreError if one is damaged."""
    found = [outcome for run in store.runs() if (outcome := kept_outcome(store, run)) is not None]
    return sorted(found, key=lambda outcome: outcome.when, reverse=True)


def kept_outcome(store: Store, run: str) -> Outcome | None:
    """The outcome of a run, None if it is no search or has not finished; see `kept_outcomes`."""
    value = store.get_state(run, KEY)
    if value is None:
        return None
    try:
        found: Outcome = decoded(Outcome, value, KEY)
    except (BundleError, BudgetError) as error:
        raise StoreError(
            f"the outcome of {run} in {store.path} makes no sense: {error.message}",
            hint="the same search again replaces it; or use the ofatvm that wrote it",
        ) from None
    return found

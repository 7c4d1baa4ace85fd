"""How far predictions are from measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofatvm.errors import UsageError


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """Errors of `n` predictions; percentages of the measured value, `coverage` of the intervals.

    `spearman` is None when one side is constant, `coverage` when there were no intervals.
    """

    n: int
    mape_percent: float
    bias_percent: float
    spearman: float | None
    within_5_percent: float
    within_10_percent: float
    coverage: float | None = None

    def to_dict(self) -> dict[str, float | int | None]:
        """Field name -> value."""
        return {name: getattr(self, name) for name in self.__slots__}


def error_report(
    predicted: np.ndarray,
    measured: np.ndarray,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
) -> ErrorReport:
    """Compare predictions (n,) with positive measurements (n,), and with intervals if given."""
    if len(measured) == 0 or np.shape(predicted) != np.shape(measured):
        raise UsageError(
            f"predictions {np.shape(predicted)} and measurements {np.shape(measured)} must pair up"
        )
    relative = predicted / measured - 1
    share = np.abs(relative)
    covered = None
    if low is not None and high is not None:
        covered = float(((measured >= low) & (measured <= high)).mean())
    return ErrorReport(
        n=len(measured),
        mape_percent=float(100 * share.mean()),
        bias_percent=float(100 * relative.mean()),
        spearman=spearman(predicted, measured),
        within_5_percent=float(100 * (share <= 0.05).mean()),
        within_10_percent=float(100 * (share <= 0.10).mean()),
        coverage=covered,
    )


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Rank correlation with ties averaged; None when either side is constant."""
    left, right = _ranks(a), _ranks(b)
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum() / scale) if scale > 0 else None


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank: np.ndarray = np.cumsum(counts) - (counts - 1) / 2
    return mean_rank[inverse]

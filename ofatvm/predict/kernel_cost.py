"""The tuner's cost model: XGBoost from schedule features to a kernel's time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xgboost

MIN_SAMPLES = 32
PARAMETERS = {
    "max_depth": 7,
    "eta": 0.15,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "min_child_weight": 2.0,
    "tree_method": "hist",
    "objective": "reg:squarederror",
    "verbosity": 0,
}


class KernelCostModel:
    """Ranks schedule candidates; one model for all workloads of a target.

    It learns log(seconds / work) and is fitted afresh from all trials, which the journal keeps, so
    that what one run learned serves the next.
    """

    def __init__(self, *, seed: int, threads: int) -> None:
        """Start untrained: every candidate scores alike."""
        self._parameters = {**PARAMETERS, "seed": seed, "nthread": threads}
        self._booster: xgboost.Booster | None = None
        self.samples = 0

    def fit(
        self, features: np.ndarray, log_cost: np.ndarray, weight: np.ndarray | None = None
    ) -> None:
        """Fit on `features` (n, f) and `log_cost` (n,) = log(seconds / work).

        `weight` (n,) says how much each trial counts; None: all alike.
        """
        import xgboost

        if len(features) < MIN_SAMPLES:
            return
        data = xgboost.DMatrix(features, label=log_cost, weight=weight)
        self._booster = xgboost.train(self._parameters, data, num_boost_round=120)
        self.samples = len(features)

    def score(self, features: np.ndarray) -> np.ndarray:
        """Predicted log cost (n,), lower is better; zeros before the first fit."""
        if self._booster is None:
            return np.zeros(len(features), dtype=np.float32)
        return self._booster.inplace_predict(features)

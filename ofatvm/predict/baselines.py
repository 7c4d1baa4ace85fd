"""The simpler latency models that the real one is always reported beside."""

from __future__ import annotations

import numpy as np

from ofatvm.predict.features import SpaceTables
from ofatvm.predict.folds import folds
from ofatvm.predict.report import ErrorReport, error_report


def baselines(
    train_rows: np.ndarray,
    train_ms: np.ndarray,
    train_known_ms: np.ndarray,
    test_rows: np.ndarray,
    test_known_ms: np.ndarray,
    tables: SpaceTables,
    *,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Predicted latencies of the test rows, by name of the baseline.

    `macs`: a line through MACs. `kernel sum`: a line through the kernels' own times.
    `one-hot XGBoost`: boosted trees over one bit per choice, as NAS papers fit their tables.
    """
    return {
        "macs": _line(tables.macs(train_rows), train_ms, tables.macs(test_rows)),
        "kernel sum": _line(train_known_ms, train_ms, test_known_ms),
        "one-hot XGBoost": _one_hot_trees(train_rows, train_ms, test_rows, tables, seed),
    }


def baseline_reports(
    rows: np.ndarray,
    latency_ms: np.ndarray,
    known_ms: np.ndarray,
    tables: SpaceTables,
    *,
    seed: int = 0,
) -> dict[str, ErrorReport]:
    """Out-of-fold errors of every baseline, in the folds in which `LatencyModel.fit` tells its own.

    `rows` are (n, row_width), `latency_ms` and `known_ms` (n,).
    """
    predicted: dict[str, np.ndarray] = {}
    for train, held in folds(len(rows), seed):
        found = baselines(
            rows[train],
            latency_ms[train],
            known_ms[train],
            rows[held],
            known_ms[held],
            tables,
            seed=seed,
        )
        for name, values in found.items():
            predicted.setdefault(name, np.empty(len(rows)))[held] = values
    return {name: error_report(values, latency_ms) for name, values in predicted.items()}


def _line(train: np.ndarray, train_ms: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Least squares of relative errors, so that small and large nets count alike."""
    scale = float(np.mean(train))
    design = np.stack([np.ones(len(train)), train / scale], axis=1) / train_ms[:, None]
    (offset, slope), *_ = np.linalg.lstsq(design, np.ones(len(train)), rcond=None)
    result: np.ndarray = offset + slope * (test / scale)
    return result


def _one_hot_trees(
    train_rows: np.ndarray,
    train_ms: np.ndarray,
    test_rows: np.ndarray,
    tables: SpaceTables,
    seed: int,
) -> np.ndarray:
    import xgboost

    data = xgboost.DMatrix(_one_hot(train_rows, tables), label=np.log(train_ms), nthread=1)
    params = {"max_depth": 4, "eta": 0.05, "subsample": 0.8, "colsample_bytree": 0.8, "nthread": 1}
    booster = xgboost.train({**params, "seed": seed % 2**31}, data, num_boost_round=400)
    result: np.ndarray = np.exp(booster.inplace_predict(_one_hot(test_rows, tables)))
    return result


def _one_hot(rows: np.ndarray, tables: SpaceTables) -> np.ndarray:
    space, blocks = tables.space, tables.space.blocks
    parts = [rows[:, :blocks] == kernel for kernel in space.kernels]
    parts += [rows[:, blocks : 2 * blocks] == expand for expand in space.expands]
    parts += [rows[:, 2 * blocks : -1] == depth for depth in space.depths]
    parts += [rows[:, -1:] == resolution for resolution in tables.resolutions]
    return np.concatenate(parts, axis=1).astype(np.float32)

"""Latency of compiled subnets: what the kernels' own times say, corrected by what was measured.

    log(measured / known) = ridge + XGBoost on what ridge leaves over

`known` is the sum of a subnet's tuned kernel times. The ridge corrects overheads per call and per
kernel, whole classes of kernels, and each kind of block by the share of time it takes. How
strongly each part is held back is chosen by cross-validation, and the same out-of-fold errors
calibrate the intervals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ofatvm.arch import ArchSpace
from ofatvm.errors import UsageError
from ofatvm.predict.features import BlockTable, SpaceTables, feature_names, features
from ofatvm.predict.files import read_model, stale, write_model
from ofatvm.predict.folds import folds
from ofatvm.predict.report import ErrorReport, error_report
from ofatvm.predict.ridge import Scaling, fit_ridge, gram
from ofatvm.spaces import find_space

MIN_SAMPLES = 10
CONFIDENCE = 0.90

OVERHEAD_PENALTY = 0.03  # overheads per call and per kernel: two columns, always wanted
FEATURE_PENALTIES = (1e6, 300.0, 30.0)
BLOCK_PENALTIES = (1e6, 100.0, 30.0, 10.0, 3.0)
TREE_WEIGHTS = (0.0, 0.5, 1.0)
SLACK = 0.5  # standard errors by which a simpler candidate may be worse than the best

TREES = 48
TREE_PARAMS: dict[str, Any] = {
    "objective": "reg:squarederror",
    "base_score": 0.0,
    "max_depth": 3,
    "eta": 0.1,
    "lambda": 4.0,
    "min_child_weight": 4.0,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "tree_method": "exact",
    "nthread": 1,
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted latencies (n,) with the ends of their 90 % intervals."""

    latency_ms: np.ndarray
    low_ms: np.ndarray
    high_ms: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class LatencyModel:
    """A fitted model; see the module. The reports are of out-of-fold predictions and of `known`.

    `feature_weights` (f,) and `intercept` are of unscaled columns; `block_weights` are one a kind
    of block, `cost` what the shares of blocks are counted in.
    """

    tables: SpaceTables
    feature_weights: np.ndarray
    intercept: float
    block_weights: np.ndarray
    cost: BlockTable
    booster: Any = field(repr=False)
    tree_weight: float
    typical: tuple[float, float]
    log_half_width: float
    report: ErrorReport
    known_report: ErrorReport
    seed: int
    _corrections: BlockTable = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Fold the weights of the kinds of blocks into one table beside the cost."""
        kinds = _kinds(self.cost)
        weights = np.where(kinds >= 0, self.block_weights[kinds], 0.0)
        cost = self.cost.blocks[:, 0]
        table = BlockTable(
            self.tables,
            np.stack([self.cost.fixed[:, 0], np.zeros(len(self.cost.fixed))], axis=1),
            np.stack([cost, cost * weights], axis=1),
        )
        object.__setattr__(self, "_corrections", table)

    @classmethod
    def fit(
        cls,
        rows: np.ndarray,
        latency_ms: np.ndarray,
        known_ms: np.ndarray,
        space: ArchSpace,
        tables: SpaceTables,
        *,
        kernel_ms: BlockTable | None = None,
        seed: int = 0,
    ) -> LatencyModel:
        """Fit to measured `rows` (n, row_width) with `latency_ms` and `known_ms`, both (n,).

        `kernel_ms` is the table that `known_ms` was summed from (`SpaceTables.additive`): with it,
        what a kind of block takes beyond its kernels' own times is learned from its share of time,
        without it from its share of MACs.
        """
        if space.code != tables.space.code:
            raise UsageError(f"the tables are of {tables.space.name}, the rows of {space.name}")
        latency, known = _checked(latency_ms, rows), _checked(known_ms, rows)
        if len(rows) < MIN_SAMPLES:
            raise UsageError(
                f"a latency model needs at least {MIN_SAMPLES} measured subnets, got {len(rows)}",
                hint="measure more of them",
            )
        cost = kernel_ms or tables.macs_table()
        typical = (float(np.median(known)), float(np.median(tables.kernels(rows))))
        columns = _columns(rows, known, tables, typical)
        shares = _block_shares(rows, cost)
        target = np.log(latency / known)
        linear, trees = _out_of_fold(columns, shares, target, seed)
        best, weight = _choose(linear, trees, target)
        out_of_fold = _honest(linear, trees, target, seed)
        half = _conformal_half_width(np.abs(out_of_fold - target))
        ridge = _Ridge.fit(columns, shares, target, [best])[0]
        predicted = known * np.exp(out_of_fold)
        return cls(
            tables=tables,
            feature_weights=ridge.feature_weights,
            intercept=ridge.intercept,
            block_weights=ridge.block_weights,
            cost=cost,
            booster=_fit_trees(columns, target - ridge(columns, shares), seed),
            tree_weight=weight,
            typical=typical,
            log_half_width=half,
            # Without intervals: these very errors set their width, so they cover by construction.
            report=error_report(predicted, latency),
            known_report=error_report(known * math.exp(float(np.median(target))), latency),
            seed=seed,
        )

    def predict(self, rows: np.ndarray, known_ms: np.ndarray) -> Prediction:
        """Latencies of `rows` (n, row_width) whose kernels take `known_ms` (n,) by themselves."""
        known = _checked(known_ms, rows)
        columns = _columns(rows, known, self.tables, self.typical)
        cost, weighted = self._corrections.vectors(rows).T
        ratio = _dot(columns, self.feature_weights) + self.intercept + weighted / cost
        if self.tree_weight and len(rows):
            ratio = ratio + self.tree_weight * self.booster.inplace_predict(columns)
        latency = known * np.exp(ratio)
        spread = math.exp(self.log_half_width)
        return Prediction(latency, latency / spread, latency * spread)

    def save(self, directory: Path) -> None:
        """Write the trees as UBJSON and everything else as JSON beside it, each file whole."""
        write_model(
            directory,
            bytes(self.booster.save_raw("ubj")),
            {
                "space": self.tables.space.name,
                "resolutions": list(self.tables.resolutions),
                "features": list(_column_names(self.tables.space)),
                "feature_weights": self.feature_weights.tolist(),
                "intercept": self.intercept,
                "block_weights": self.block_weights.tolist(),
                "cost": {
                    "fixed": self.cost.fixed[:, 0].tolist(),
                    "blocks": self.cost.blocks[:, 0].tolist(),
                },
                "tree_weight": self.tree_weight,
                "typical": list(self.typical),
                "interval": {"confidence": CONFIDENCE, "log_half_width": self.log_half_width},
                "errors": {
                    "out_of_fold": self.report.to_dict(),
                    "kernel_sum": self.known_report.to_dict(),
                },
                "seed": self.seed,
            },
        )

    @classmethod
    def load(cls, directory: Path, tables: SpaceTables | None = None) -> LatencyModel:
        """Read what `save` wrote; `tables` are needed when the space is not a registered one."""
        import xgboost

        trees, sidecar = read_model(directory)
        if tables is None:
            tables = SpaceTables.build(find_space(sidecar["space"]), *sidecar["resolutions"])
        expected = (tables.space.name, list(tables.resolutions), list(_column_names(tables.space)))
        if (sidecar["space"], sidecar["resolutions"], sidecar["features"]) != expected:
            raise stale(directory, "was fitted for another space or for other features")
        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(bytearray(trees))
        cost = sidecar["cost"]
        return cls(
            tables=tables,
            feature_weights=np.array(sidecar["feature_weights"]),
            intercept=sidecar["intercept"],
            block_weights=np.array(sidecar["block_weights"]),
            cost=BlockTable(
                tables, np.array(cost["fixed"])[:, None], np.array(cost["blocks"])[:, None]
            ),
            booster=booster,
            tree_weight=sidecar["tree_weight"],
            typical=(sidecar["typical"][0], sidecar["typical"][1]),
            log_half_width=sidecar["interval"]["log_half_width"],
            report=ErrorReport(**sidecar["errors"]["out_of_fold"]),
            known_report=ErrorReport(**sidecar["errors"]["kernel_sum"]),
            seed=sidecar["seed"],
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Ridge:
    feature_weights: np.ndarray
    block_weights: np.ndarray
    intercept: float

    def __call__(self, columns: np.ndarray, shares: np.ndarray) -> np.ndarray:
        return (
            _dot(columns, self.feature_weights) + _dot(shares, self.block_weights) + self.intercept
        )

    @classmethod
    def fit(
        cls, columns: np.ndarray, shares: np.ndarray, target: np.ndarray, which: list[int]
    ) -> list[_Ridge]:
        """One fit for each candidate of `which`, an index into `_candidates`."""
        data = columns.astype(np.float64)
        scalings = [Scaling.of(data[:, :2]), Scaling.of(data[:, 2:]), Scaling.of(shares, True)]
        parts = (data[:, :2], data[:, 2:], shares)
        groups = [scaling(part) for scaling, part in zip(scalings, parts, strict=True)]
        grams = [gram(group) for group in groups]
        result = []
        for index in which:
            feature_penalty, block_penalty = _candidates()[index]
            penalties = (OVERHEAD_PENALTY, feature_penalty, block_penalty)
            weights, intercept = fit_ridge(groups, grams, penalties, target)
            raw = [w / scaling.scale for w, scaling in zip(weights, scalings, strict=True)]
            for weight, scaling in zip(raw, scalings, strict=True):
                intercept -= float((weight * scaling.center).sum())
            result.append(cls(np.concatenate(raw[:2]), raw[2], intercept))
        return result


def _candidates() -> list[tuple[float, float]]:
    """Pairs of penalties, simplest first."""
    return [(f, b) for f in FEATURE_PENALTIES for b in BLOCK_PENALTIES]


def _column_names(space: ArchSpace) -> tuple[str, ...]:
    return ("one_per_known", "kernels_per_known", "log_known", *feature_names(space))


def _columns(
    rows: np.ndarray, known: np.ndarray, tables: SpaceTables, typical: tuple[float, float]
) -> np.ndarray:
    """Columns for ridge and trees, (n, f) float32: overheads as shares of `known`, features."""
    every = features(rows, tables)
    result = np.empty((len(rows), 3 + every.shape[1]), dtype=np.float32)
    kernels = every[:, feature_names(tables.space).index("kernels")]
    result[:, 0] = typical[0] / known
    result[:, 1] = kernels / typical[1] * result[:, 0]
    result[:, 2] = np.log(known)
    result[:, 3:] = every
    return result


def _kinds(cost: BlockTable) -> np.ndarray:
    """Kind of block of every table entry, -1 for a skipped one.

    A kind is (stage, first or later in it, kernel, expand), the same at all resolutions.
    """
    space = cost.tables.space
    states = len(space.kernels) * len(space.expands) + 1
    place = np.arange(space.blocks)
    group = 2 * (place // space.max_depth) + (place % space.max_depth > 0)
    kinds = group[:, None] * (states - 1) + np.arange(-1, states - 1)
    kinds[:, 0] = -1
    return np.tile(kinds.reshape(-1), len(cost.tables.resolutions))


def _block_shares(rows: np.ndarray, cost: BlockTable) -> np.ndarray:
    """Share of a row's cost that each kind of block takes, (n, kinds)."""
    kinds = _kinds(cost)
    where, _ = cost.tables.locate(rows)
    result = np.zeros((len(rows), int(kinds.max()) + 1))
    share = np.take(cost.blocks[:, 0], where) / cost(rows)[:, None]
    row, block = np.nonzero(kinds[where] >= 0)
    np.add.at(result, (row, kinds[where[row, block]]), share[row, block])
    return result


def _dot(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum of columns; einsum and not BLAS, whose sums depend on thread count."""
    product: np.ndarray = np.einsum("nf,f->n", columns, weights)
    return product


def _checked(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (len(rows),):
        raise UsageError(f"{len(rows)} rows need as many times, got shape {values.shape}")
    if not (np.isfinite(values) & (values > 0)).all():
        raise UsageError("latencies and kernel times must be positive numbers of milliseconds")
    return values


def _out_of_fold(
    columns: np.ndarray, shares: np.ndarray, target: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Linear and tree parts for held-out rows, both (candidates, n)."""
    which = list(range(len(_candidates())))
    linear = np.empty((len(which), len(target)))
    trees = np.empty_like(linear)
    for train, held in folds(len(target), seed):
        for i, ridge in enumerate(_Ridge.fit(columns[train], shares[train], target[train], which)):
            linear[i, held] = ridge(columns[held], shares[held])
            left = target[train] - ridge(columns[train], shares[train])
            trees[i, held] = _fit_trees(columns[train], left, seed).inplace_predict(columns[held])
    return linear, trees


def _choose(linear: np.ndarray, trees: np.ndarray, target: np.ndarray) -> tuple[int, float]:
    """Candidate and tree weight: the simplest that is not clearly worse than the best."""
    errors = [
        (i, weight, np.abs(linear[i] + weight * trees[i] - target))
        for i in range(len(linear))
        for weight in TREE_WEIGHTS
    ]
    least = min((error for _, _, error in errors), key=lambda error: float(error.mean()))
    for i, weight, error in errors:
        worse = error - least
        if float(worse.mean()) <= SLACK * float(worse.std()) / math.sqrt(len(target)):
            return i, weight
    raise AssertionError("the best candidate is not worse than itself")


def _honest(linear: np.ndarray, trees: np.ndarray, target: np.ndarray, seed: int) -> np.ndarray:
    """Predictions (n,) of held-out rows, each by the candidate that the other folds choose.

    The errors of the candidate that all folds choose together are too small: it was chosen by them.
    """
    result = np.empty(len(target))
    for train, held in folds(len(target), seed):
        best, weight = _choose(linear[:, train], trees[:, train], target[train])
        result[held] = linear[best, held] + weight * trees[best, held]
    return result


def _fit_trees(columns: np.ndarray, target: np.ndarray, seed: int) -> Any:
    import xgboost

    data = xgboost.DMatrix(columns, label=target.astype(np.float32), nthread=1)
    return xgboost.train({**TREE_PARAMS, "seed": seed % 2**31}, data, num_boost_round=TREES)


def _conformal_half_width(errors: np.ndarray) -> float:
    """Quantile of out-of-fold errors that covers a further draw with the wanted confidence."""
    rank = math.ceil(CONFIDENCE * (len(errors) + 1))
    return float(np.sort(errors)[min(rank, len(errors)) - 1])

"""How well an accuracy model predicts subnets that it never saw, and what no model can beat."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ofatvm.arch import ArchSpace
from ofatvm.errors import DatasetError
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.predict.accuracy_fit import check_table, stratified_folds, stratified_groups
from ofatvm.predict.features import SpaceTables
from ofatvm.predict.report import spearman
from ofatvm.predict.ridge import solve_positive

_DIGITS = 4


@dataclass(frozen=True, slots=True)
class PointErrors:
    """Errors of `n` predictions in points of top-1; `bias_points` is positive if they are too high.

    The rank correlations are None when either side is constant.
    """

    n: int
    rmse_points: float
    bias_points: float
    worst_points: float
    spearman: float | None
    kendall: float | None

    @classmethod
    def of(cls, predicted: np.ndarray, top1_percent: np.ndarray) -> PointErrors:
        """Compare predictions (n,) with what was evaluated, n >= 1."""
        errors = predicted - top1_percent
        return cls(
            n=len(errors),
            rmse_points=_rmse(errors),
            bias_points=float(errors.mean()),
            worst_points=float(np.abs(errors).max()),
            spearman=spearman(predicted, top1_percent),
            kendall=kendall(predicted, top1_percent),
        )


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """What `evaluate_fit` found.

    `held_out` is of a fit to `n_fit` other rows, `macs_only` of a cubic in log MACs for each
    resolution on the same rows, `by_resolution` of the model on those at one resolution, where
    the resolution explains nothing. `cross_validated` is of five such fits over all rows, each of
    its own penalties: it stands for the model that is fitted to all of them.
    `noise_floor_points` is the noise of the evaluated accuracies themselves: see `paired_noise`.
    """

    n_fit: int
    held_out: PointErrors
    by_resolution: dict[int, PointErrors]
    macs_only: PointErrors
    cross_validated: PointErrors
    noise_floor_points: float | None

    def to_dict(self) -> dict[str, Any]:
        """Field name -> value, rounded, with resolutions as text: what JSON can hold."""
        result: dict[str, Any] = _rounded(asdict(self))
        result["by_resolution"] = {str(k): v for k, v in result["by_resolution"].items()}
        return result


def evaluate_fit(
    rows: np.ndarray,
    top1_percent: np.ndarray,
    uniform: np.ndarray,
    space: ArchSpace,
    *,
    held_out: int | float = 0.2,
    seed: int = 0,
    noise_percent: float | None = None,
) -> AccuracyReport:
    """Fit to a part of a table of evaluated subnets and compare with the rest.

    `held_out` is a number of rows (from 1) or a share of them (below 1). Rows are held out by
    architecture, at all its resolutions, so their number may be met only nearly; each resolution
    gives its share. `noise_percent` is the noise of the accuracies, from `paired_noise`.
    A table that cannot be fitted is a DatasetError.
    """
    check_table(rows, top1_percent, uniform)
    every = np.arange(len(rows))
    held, folds = _held_out(rows, held_out, seed), stratified_folds(rows, seed + 1)
    kept, *others = (np.setdiff1d(every, part) for part in (held, *folds))
    for part in (kept, *others):
        _check_part(rows, top1_percent, uniform, part)

    def predict(fit: np.ndarray, test: np.ndarray) -> np.ndarray:
        model = AccuracyModel.fit(rows[fit], top1_percent[fit], uniform[fit], space, seed=seed)
        return model.predict(rows[test])

    predicted, truth, at = predict(kept, held), top1_percent[held], rows[held, -1]
    crossed = np.empty(len(rows))
    for fold, other in zip(folds, others, strict=True):
        crossed[fold] = predict(other, fold)
    return AccuracyReport(
        n_fit=len(kept),
        held_out=PointErrors.of(predicted, truth),
        by_resolution={
            int(r): PointErrors.of(predicted[at == r], truth[at == r]) for r in np.unique(at)
        },
        macs_only=PointErrors.of(
            predict_by_macs(rows[kept], top1_percent[kept], rows[held], space), truth
        ),
        cross_validated=PointErrors.of(crossed, top1_percent),
        noise_floor_points=noise_percent,
    )


def paired_noise(correct: np.ndarray) -> float:
    """Noise of the accuracy of subnets evaluated on the same images, in points.

    `correct` is bool (subnets, images), 2 or more of each. An accuracy p on n images has the
    standard error 100 sqrt(p (1 - p) / n), but most of that is how hard the images happen to be,
    which is common to all subnets: it moves no ranking, and a model's intercept takes it up. What
    remains is the residual of a two-way analysis of variance,

        e[s, i] = x[s, i] - mean[s, :] - mean[:, i] + mean[:, :]
        noise   = 100 sqrt( sum e^2 / ((subnets - 1) (images - 1)) / images ),

    the standard deviation of a subnet's accuracy, less the mean of all subnets', around what
    it would be over endless images. Two subnets differ by sqrt(2) times as much. A model's error
    on the *same* images can be smaller, since similar subnets err on the same images.
    """
    if correct.ndim != 2 or min(correct.shape) < 2:
        raise DatasetError(f"noise needs 2 subnets and 2 images or more, got {correct.shape}")
    subnets, images = correct.shape
    marks = correct.astype(bool)
    by_subnet = marks.sum(axis=1, dtype=np.int64).tolist()
    by_image = marks.sum(axis=0, dtype=np.int64).tolist()
    total = sum(by_subnet)
    # Whole numbers of any size, so the result is exact up to its last division.
    squares = (
        total * subnets * images
        - subnets * sum(count * count for count in by_subnet)
        - images * sum(count * count for count in by_image)
        + total * total
    )
    degrees = subnets * images * (subnets - 1) * (images - 1)
    return float(100 * np.sqrt(squares / degrees / images))


def predict_by_macs(
    rows: np.ndarray, top1_percent: np.ndarray, others: np.ndarray, space: ArchSpace
) -> np.ndarray:
    """Top-1 of `others` from a cubic in log MACs per resolution, fitted to `rows`, (n,)."""
    tables = SpaceTables.build(space, *sorted(set(rows[:, -1].tolist())))
    result = np.full(len(others), np.nan)
    for resolution in tables.resolutions:
        mine, asked = rows[:, -1] == resolution, others[:, -1] == resolution
        size, target = np.log(tables.macs(rows[mine])), np.log(tables.macs(others[asked]))
        center, scale = size.mean(), size.std() or 1.0
        powers = ((size - center) / scale)[:, None] ** np.arange(4)
        normal = np.einsum("ni,nj->ij", powers, powers) + 1e-6 * np.eye(4)
        solution = solve_positive(normal, np.einsum("ni,n->i", powers, top1_percent[mine]))
        result[asked] = np.polynomial.polynomial.polyval((target - center) / scale, solution)
    return result


def kendall(a: np.ndarray, b: np.ndarray) -> float | None:
    """Kendall's tau-b, which corrects for ties; None when either side is constant."""
    pairs = np.triu_indices(len(a), 1)
    left, right = np.sign(a[pairs[0]] - a[pairs[1]]), np.sign(b[pairs[0]] - b[pairs[1]])
    scale = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum() / scale) if scale > 0 else None


def _held_out(rows: np.ndarray, held_out: int | float, seed: int) -> np.ndarray:
    """Row numbers to hold out, sorted: whole architectures, spread evenly over resolutions."""
    groups = stratified_groups(rows, seed)
    if not 0 < held_out < len(rows):
        raise DatasetError(
            f"cannot hold out {held_out} of {len(rows)} subnets",
            hint="give a number that leaves some to fit to, or a share below 1",
        )
    share = held_out if held_out < 1 else held_out / len(rows)
    count = max(1, round(share * len(groups)))
    chosen = ((np.arange(count) + 0.5) * len(groups) / count).astype(int)
    return np.sort(np.concatenate([groups[i] for i in chosen]))


def _check_part(
    rows: np.ndarray, top1_percent: np.ndarray, uniform: np.ndarray, part: np.ndarray
) -> None:
    hint = "evaluate more subnets or hold out fewer"
    try:
        check_table(rows[part], top1_percent[part], uniform[part])
    except DatasetError as error:
        raise DatasetError(f"without those held out, {error.message}", hint=hint) from None
    lost = set(rows[:, -1].tolist()) - set(rows[part, -1].tolist())
    if lost:
        raise DatasetError(
            f"without those held out, no subnets at resolution {min(lost)} are left", hint=hint
        )


def _rmse(errors: np.ndarray) -> float:
    return float(np.sqrt((errors**2).mean()))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, _DIGITS) if isinstance(value, float) else value

"""Fitting the accuracy model: a ridge regression whose penalties are chosen by cross-validation."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

import numpy as np

from ofatvm.errors import DatasetError
from ofatvm.predict.accuracy_terms import (
    CURVE,
    resolution_basis,
    stage_offsets,
    stage_terms,
    state_basis,
)
from ofatvm.predict.features import SpaceTables
from ofatvm.predict.ridge import solve_positive

FOLDS = 5
FEWEST_ROWS = 20
FEWEST_AT_RESOLUTION = 5
UNIFORM_WEIGHT = 5.0  # at most; less where uniformly drawn rows are not rare
MAIN_PENALTY = 0.01  # of a resolution's own accuracy: practically none
GRID = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


@dataclass(frozen=True, slots=True)
class Penalties:
    """Ridge penalties: of blocks' terms, products of stage sums, log MACs, and resolutions' own."""

    blocks: float = 10.0
    products: float = 30.0
    curve: float = 1.0
    resolutions: float = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What a fit found; shapes and meanings as in `AccuracyModel`."""

    blocks: np.ndarray
    products: np.ndarray
    curves: np.ndarray
    resolutions: np.ndarray
    intercept: float


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """Columns (n, f) of evaluated rows, the first of them 1, and how to read a solution (f,)."""

    tables: SpaceTables
    columns: np.ndarray
    centers: np.ndarray
    scale: float

    @classmethod
    def of(cls, rows: np.ndarray, tables: SpaceTables) -> Design:
        """The columns of `rows`: 1, blocks, products, log MACs, resolutions, their products."""
        space = tables.space
        where, resolution = tables.locate(rows)
        basis, terms, own = _bases(tables)
        states = len(basis)
        where = where % (space.blocks * states)
        width = terms.shape[2]
        sums = terms.reshape(-1, width)[where].sum(axis=1) + stage_offsets(space)
        upper = np.triu_indices(width)
        # Sizes are told from the middle of these same architectures at the row's resolution.
        everywhere = np.stack([np.log(tables.macs(_at(rows, r))) for r in tables.resolutions])
        centers = everywhere.mean(axis=1)
        size = everywhere[resolution, np.arange(len(rows))] - centers[resolution]
        scale = float(size.std()) or 1.0
        powers = (size / scale)[:, None] ** np.arange(1, CURVE + 1)
        shared = np.concatenate([sums, powers[:, :2]], axis=1)
        columns = [
            np.ones((len(rows), 1)),
            basis[where % states].reshape(len(rows), -1),
            sums[:, upper[0]] * sums[:, upper[1]],
            powers,
            own[resolution],
            (own[resolution][:, :, None] * shared[:, None, :]).reshape(len(rows), -1),
        ]
        return cls(tables, np.concatenate(columns, axis=1), centers, scale)

    def diagonal(self, penalties: Penalties) -> np.ndarray:
        """The penalty of every column, (f,)."""
        basis, terms, own = _bases(self.tables)
        width, shared = terms.shape[2], terms.shape[2] + 2
        values = (0.0, *astuple(penalties)[:3], MAIN_PENALTY, penalties.resolutions)
        lengths = (
            1,
            len(terms) * basis.shape[1],
            width * (width + 1) // 2,
            CURVE,
            own.shape[1],
            own.shape[1] * shared,
        )
        return np.repeat(values, lengths)

    def terms(self, solution: np.ndarray) -> Terms:
        """The model's terms from the weights of the columns, (f,)."""
        basis, terms, own = _bases(self.tables)
        blocks, _, width = terms.shape
        ends = np.cumsum([1, blocks * basis.shape[1], width * (width + 1) // 2, CURVE])
        of_blocks, of_products, of_curve, rest = np.split(solution, ends)[1:]
        products = np.zeros((width, width))
        products[np.triu_indices(width)] = of_products
        main, inner = np.split(rest, [own.shape[1]])
        by_resolution = np.einsum("rq,qf->rf", own, inner.reshape(own.shape[1], width + 2))
        curves = np.tile(of_curve, (len(own), 1))
        curves[:, :2] += by_resolution[:, width:]
        places = np.stack([self.centers, np.full(len(own), self.scale)], axis=1)
        return Terms(
            blocks=np.einsum("bf,sf->bs", of_blocks.reshape(blocks, -1), basis),
            products=products,
            curves=np.concatenate([places, curves], axis=1),
            resolutions=np.concatenate(
                [np.einsum("rq,q->r", own, main)[:, None], by_resolution[:, :width]], axis=1
            ),
            intercept=float(solution[0]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Normal equations of weighted rows, in all and of each fold alone, for any penalties."""

    design: Design
    top1: np.ndarray
    weight: np.ndarray
    folds: tuple[np.ndarray, ...]
    shift: np.ndarray
    whole: np.ndarray
    parts: tuple[np.ndarray, ...]

    @classmethod
    def of(
        cls, design: Design, top1: np.ndarray, weight: np.ndarray, folds: tuple[np.ndarray, ...]
    ) -> Problem:
        """Tabulate; columns count from their mean, which is what the intercept takes up."""
        columns = np.column_stack([design.columns, top1])
        shift = np.einsum("n,nf->f", weight, columns) / weight.sum()
        shift[0] = 0.0
        columns = (columns - shift).T.copy()
        whole = _products(columns, weight, np.arange(len(top1)))
        parts = tuple(_products(columns, weight, fold) for fold in folds)
        return cls(design, top1, weight, folds, shift, whole, parts)

    def solve(self, penalties: Penalties, fold: int | None = None) -> np.ndarray:
        """Weights of the columns (f,), fitted to all rows or to those outside a fold."""
        normal = self.whole if fold is None else self.whole - self.parts[fold]
        left = normal[:-1, :-1] + np.diag(self.design.diagonal(penalties))
        solution = solve_positive(left, normal[:-1, -1])
        solution[0] += self.shift[-1] - float(np.einsum("f,f->", self.shift[:-1], solution))
        return solution

    def errors(self, penalties: Penalties) -> np.ndarray:
        """Truth less prediction of every row by the fit that did not see its fold, (n,)."""
        result = np.full(len(self.top1), np.nan)
        for number, fold in enumerate(self.folds):
            solution = self.solve(penalties, number)
            predicted = np.einsum("nf,f->n", self.design.columns[fold], solution)
            result[fold] = self.top1[fold] - predicted
        return result


def fit_terms(
    rows: np.ndarray,
    top1: np.ndarray,
    uniform: np.ndarray,
    tables: SpaceTables,
    *,
    penalties: Penalties | None,
    seed: int,
) -> tuple[Terms, Penalties]:
    """Terms fitted to a checked table, and the penalties: those given, or else the best found."""
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(np.flatnonzero(uniform))
    design = Design.of(rows, tables)
    weight = _weights(uniform)
    if penalties is None:
        penalties = _choose(Problem.of(design, top1, weight, stratified_folds(rows, seed)))
    problem = Problem.of(design, top1, weight, tuple(drawn[k::FOLDS] for k in range(FOLDS)))
    terms = design.terms(problem.solve(penalties))
    if not len(drawn):
        return terms, penalties
    offset = float(problem.errors(penalties)[drawn].mean())
    return replace(terms, intercept=terms.intercept + offset), penalties


def check_table(rows: np.ndarray, top1: np.ndarray, uniform: np.ndarray) -> None:
    """Raise DatasetError unless an accuracy model can be fitted to the table."""
    rule = (
        f"a table needs {FEWEST_ROWS} subnets or more, {FEWEST_AT_RESOLUTION} at every "
        "resolution, each with its top-1 in percent"
    )
    if not len(rows) == len(top1) == len(uniform):
        raise DatasetError(
            f"{len(rows)} subnets, {len(top1)} accuracies and {len(uniform)} marks do not pair up"
        )
    if len(rows) < FEWEST_ROWS:
        raise DatasetError(f"{len(rows)} evaluated subnets are too few to fit to", hint=rule)
    bad = np.flatnonzero(~((top1 >= 0) & (top1 <= 100)))
    if len(bad):
        raise DatasetError(
            f"top-1 must be 0 to 100 percent, got {top1[bad[0]]} for subnet {bad[0] + 1} of "
            f"{len(rows)}",
            hint=rule,
        )
    if top1.min() == top1.max():
        raise DatasetError(
            f"all {len(rows)} subnets have the same top-1, {top1[0]} %",
            hint="there is nothing to fit: train the supernet first",
        )
    resolutions, counts = np.unique(rows[:, -1], return_counts=True)
    if counts.min() < FEWEST_AT_RESOLUTION:
        raise DatasetError(
            f"{counts.min()} evaluated subnets at resolution {resolutions[counts.argmin()]} are "
            "too few to fit to",
            hint=rule,
        )


def stratified_folds(rows: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
    """Row numbers of each of `FOLDS` parts; each has its share of every resolution."""
    groups = stratified_groups(rows, seed)
    return tuple(np.concatenate(groups[k::FOLDS]) for k in range(FOLDS) if groups[k::FOLDS])


def stratified_groups(rows: np.ndarray, seed: int) -> list[np.ndarray]:
    """Row numbers of each architecture, its resolutions together, sorted by which these are.

    Every k-th group is therefore a random sample with its share of each resolution, and what is
    left out of a fit is unknown to it at any resolution.
    """
    _, group = np.unique(rows[:, :-1], axis=0, return_inverse=True)
    group = group.ravel()
    ends = np.cumsum(np.bincount(group))[:-1]
    members = np.split(np.argsort(group, kind="stable"), ends)
    shuffled = [members[i] for i in np.random.default_rng(seed).permutation(len(members))]
    return sorted(shuffled, key=lambda member: sorted(rows[member, -1].tolist()))


def _choose(problem: Problem) -> Penalties:
    """The penalties with the least cross-validated error, searched one after the other."""
    known: dict[Penalties, float] = {}

    def error(penalties: Penalties) -> float:
        if penalties not in known:
            squares = problem.errors(penalties) ** 2
            known[penalties] = float(np.einsum("n,n->", problem.weight, squares))
        return known[penalties]

    names = ["blocks", "products"]
    if len(problem.design.tables.resolutions) > 1:
        names.append("resolutions")
    best, before = Penalties(), None
    while best != before:
        before = best
        for name in names:
            best = min((replace(best, **{name: value}) for value in GRID), key=error)
    return best


def _weights(uniform: np.ndarray) -> np.ndarray:
    """Weight of every row: uniformly drawn ones count more where they are rare, (n,)."""
    drawn = int(np.count_nonzero(uniform))
    most = (len(uniform) - drawn) / max(drawn, 1)
    return np.where(uniform, min(max(most, 1.0), UNIFORM_WEIGHT), 1.0)


def _products(columns: np.ndarray, weight: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Weighted inner products of columns (f, n) over the chosen rows, (f, f)."""
    part = np.ascontiguousarray(columns[:, chosen])
    # einsum and not BLAS, whose sums depend on the number of threads.
    result: np.ndarray = np.einsum("in,jn->ij", part * weight[chosen], part)
    return result


def _bases(tables: SpaceTables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    space = tables.space
    return state_basis(space), stage_terms(space), resolution_basis(tables.resolutions)


def _at(rows: np.ndarray, resolution: int) -> np.ndarray:
    result = rows.copy()
    result[:, -1] = resolution
    return result

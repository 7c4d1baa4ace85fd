"""Robust ridge regression with a penalty per group of columns, the same for any thread count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

INTERCEPT_PRIOR = 1e4  # variance of the intercept, in units of a column's weight
HUBER = 1.5  # residuals beyond so many scales lose weight
PASSES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """Centre and scale of columns (n, f); a column that is constant here becomes zero."""

    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, columns: np.ndarray, common: bool = False) -> Scaling:
        """Each column to unit deviation, or all by one `common` factor that keeps their ratios."""
        center, scale = columns.mean(axis=0), columns.std(axis=0)
        useful = scale > 1e-6 * np.abs(center) + 1e-12
        if common:
            scale = np.full_like(scale, np.sqrt((scale**2).mean()))
        return cls(center, np.where(useful, scale, np.inf))

    def __call__(self, columns: np.ndarray) -> np.ndarray:
        """Scaled columns."""
        result: np.ndarray = (columns - self.center) / self.scale
        return result


def gram(columns: np.ndarray) -> np.ndarray:
    """Inner products of rows, (n, n); einsum and not BLAS, whose sums depend on thread count."""
    product: np.ndarray = np.einsum("if,jf->ij", columns, columns)
    return product


def fit_ridge(
    groups: Sequence[np.ndarray],
    grams: Sequence[np.ndarray],
    penalties: Sequence[float],
    target: np.ndarray,
) -> tuple[list[np.ndarray], float]:
    """Weights of each group's columns, and the intercept, for centred `groups` [(n, f), ...].

    `grams` are the groups' inner products, which many fits share. Solved among the rows, which
    are fewer than the columns; outliers are held back by Huber weights.
    """
    middle = float(np.median(target))
    kernel = sum((g / p for g, p in zip(grams, penalties, strict=True)), start=np.zeros(()))
    kernel = kernel + INTERCEPT_PRIOR
    weight = np.ones(len(target))
    dual = np.zeros(len(target))
    for _ in range(PASSES):
        dual = solve_positive(kernel + np.diag(1 / weight), target - middle)
        left = np.abs(dual / weight)  # residuals of the weighted fit
        limit = HUBER * max(1.4826 * float(np.median(left)), 1e-9)
        weight = limit / np.maximum(left, limit)
    weights = [np.einsum("nf,n->f", x, dual) / p for x, p in zip(groups, penalties, strict=True)]
    return weights, middle + INTERCEPT_PRIOR * float(dual.sum())


def solve_positive(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve a symmetric positive definite system (n, n) by Cholesky, in a fixed order of sums."""
    n = len(right)
    factor = np.zeros((n, n))
    solution = np.empty(n)
    for j in range(n):
        column = matrix[j:, j] - np.einsum("ik,k->i", factor[j:, :j], factor[j, :j])
        factor[j:, j] = column / np.sqrt(column[0])
        solution[j] = (right[j] - np.einsum("k,k->", factor[j, :j], solution[:j])) / factor[j, j]
    for j in reversed(range(n)):
        later = np.einsum("k,k->", factor[j + 1 :, j], solution[j + 1 :])
        solution[j] = (solution[j] - later) / factor[j, j]
    return solution

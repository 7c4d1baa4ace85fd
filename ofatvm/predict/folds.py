"""How measured subnets are split, so that every model is judged on those it was not fitted to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

FOLDS = 10


def folds(n: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices to fit to and indices held out; every one of `n` is held out once."""
    order = np.random.default_rng(seed).permutation(n)
    for fold in range(min(FOLDS, n)):
        held = order[fold :: min(FOLDS, n)]
        yield np.setdiff1d(order, held), held

"""What the accuracy model is made of: terms of a block's state, of a stage, of a resolution."""

from __future__ import annotations

import numpy as np

from ofatvm.arch import ArchSpace

CROSS_SHARE = 0.3  # scale of kernel-with-expand terms against kernel and expand terms
OWN_SHARE = 0.5  # scale of a resolution's own term against the trend over resolutions
CURVE = 3  # degree of the polynomial in log MACs


def state_basis(space: ArchSpace) -> np.ndarray:
    """What a block's state is made of, (states, states - 1); zero for a skipped block.

    Equal in a ridge regression to separate terms for being there, kernel, expand and both.
    """
    kernels, expands = len(space.kernels), len(space.expands)
    parts = [
        np.ones((kernels * expands, 1)),
        np.repeat(np.eye(kernels), expands, axis=0),
        np.tile(np.eye(expands), (kernels, 1)),
        CROSS_SHARE * np.eye(kernels * expands),
    ]
    return np.concatenate([np.zeros((1, kernels * expands)), _fewest(np.concatenate(parts, 1))])


def resolution_basis(resolutions: tuple[int, ...]) -> np.ndarray:
    """What a resolution's terms are made of, (resolutions, terms); no terms for a single one.

    Equal in a ridge regression to a trend in the logarithm and a term for each resolution.
    """
    count = len(resolutions)
    if count == 1:
        return np.zeros((1, 0))
    trend = np.log(resolutions) - np.log(resolutions).mean()
    return _fewest(
        np.concatenate([(trend / trend.std())[:, None], OWN_SHARE * np.eye(count)], axis=1)
    )


def stage_terms(space: ArchSpace) -> np.ndarray:
    """What a block adds to its stage's sums, (blocks, states, 3 * stages).

    Sums are, for each stage: kernel sizes, expand ratios, depth; each block's choices counted in
    half steps from the middle of the choices.
    """
    stages, expands = len(space.stages), len(space.expands)
    kernel = np.repeat(_centred(space.kernels), expands)
    expand = np.tile(_centred(space.expands), len(space.kernels))
    result = np.zeros((space.blocks, len(kernel) + 1, 3 * stages))
    for block in range(space.blocks):
        stage = block // space.max_depth
        result[block, 1:, stage] = kernel
        result[block, 1:, stages + stage] = expand
        result[block, 1:, 2 * stages + stage] = 1
    return result


def stage_offsets(space: ArchSpace) -> np.ndarray:
    """What the sums start from, (3 * stages,): depth counts from the middle depth."""
    stages = len(space.stages)
    return np.concatenate([np.zeros(2 * stages), np.full(stages, -float(np.mean(space.depths)))])


def _fewest(columns: np.ndarray) -> np.ndarray:
    """As few columns as rows with the same inner products of rows, which must be independent."""
    result: np.ndarray = np.linalg.cholesky(np.einsum("if,jf->ij", columns, columns))
    return result


def _centred(choices: tuple[int, ...]) -> np.ndarray:
    values = np.array(choices, dtype=np.float64)
    span = values[-1] - values[0]
    result: np.ndarray = (values - values.mean()) / (span or 1.0)
    return result

from __future__ import annotations

import numpy as np
import pytest

from ofatvm.predict.kernel_cost import MIN_SAMPLES, KernelCostModel


def data(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    features = np.random.default_rng(seed).random((count, 6)).astype(np.float32)
    return features, 3 * features[:, 0] - 2 * features[:, 1] * features[:, 2]


def fitted(count: int = 500, seed: int = 0) -> KernelCostModel:
    model = KernelCostModel(seed=seed, threads=1)
    model.fit(*data(count))
    return model


def test_every_candidate_scores_alike_before_the_first_fit() -> None:
    model = KernelCostModel(seed=0, threads=1)
    assert np.array_equal(model.score(data(7)[0]), np.zeros(7))
    model.fit(*data(MIN_SAMPLES - 1))
    assert model.samples == 0
    assert np.array_equal(model.score(data(7)[0]), np.zeros(7))


def test_it_ranks_unseen_candidates() -> None:
    model = fitted()
    features, cost = data(200, seed=9)
    assert model.samples == 500
    assert np.corrcoef(model.score(features), cost)[0, 1] > 0.95


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_candidates_may_be_scored(count: int) -> None:
    assert fitted().score(data(count)[0]).shape == (count,)


def test_the_same_seed_and_data_give_the_same_scores() -> None:
    features = data(50, seed=3)[0]
    assert np.array_equal(fitted(seed=4).score(features), fitted(seed=4).score(features))
    assert not np.array_equal(fitted(seed=4).score(features), fitted(seed=5).score(features))


def test_fitting_again_replaces_what_was_learned() -> None:
    model = fitted()
    features, cost = data(400, seed=2)
    model.fit(features, -cost)
    assert model.samples == 400
    assert np.corrcoef(model.score(features), cost)[0, 1] < -0.9


def test_what_weighs_more_counts_more() -> None:
    features, cost = data(400)
    both, opposed = np.concatenate([features, features]), np.concatenate([cost, -cost])
    model = KernelCostModel(seed=0, threads=1)
    for heavy, sign in (((1.0, 0.05), 1), ((0.05, 1.0), -1)):
        model.fit(both, opposed, np.repeat(heavy, 400))
        assert np.corrcoef(model.score(features), sign * cost)[0, 1] > 0.9

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ofatvm.search.pareto import crowding_distance, front, hypervolume_2d, non_dominated_rank

GRIDS = st.tuples(st.integers(0, 25), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.sampled_from([0.0, -0.0, 1, 2, 3, np.inf]))
)


def brute_force_rank(costs, violation=None):
    excess = np.zeros(len(costs)) if violation is None else np.maximum(violation, 0)

    def dominates(i, j):
        if excess[i] != excess[j] or excess[i] > 0:
            return excess[i] < excess[j]
        return (costs[i] <= costs[j]).all() and (costs[i] < costs[j]).any()

    rank = np.full(len(costs), -1)
    bad = np.isnan(costs).any(axis=1) | np.isnan(excess)
    level = 0
    while ((rank < 0) & ~bad).any():
        left = np.flatnonzero((rank < 0) & ~bad)
        rank[[i for i in left if not any(dominates(j, i) for j in left)]] = level
        level += 1
    rank[bad] = level
    return rank


@given(GRIDS)
def test_ranks_agree_with_brute_force(costs):
    assert non_dominated_rank(costs).tolist() == brute_force_rank(costs).tolist()
    assert front(costs).tolist() == np.flatnonzero(brute_force_rank(costs) == 0).tolist()


@given(GRIDS, st.integers(0, 2**32 - 1))
def test_constraint_domination_agrees_with_brute_force(costs, seed):
    rng = np.random.default_rng(seed)
    violation = rng.choice([-1.0, 0.0, 0.0, 0.5, 2.0, np.nan], len(costs))
    costs[rng.random(len(costs)) < 0.2] = np.nan
    want = brute_force_rank(costs, violation)
    assert non_dominated_rank(costs, violation).tolist() == want.tolist()
    usable = ~(np.isnan(costs).any(axis=1) | np.isnan(violation))
    assert front(costs, violation).tolist() == np.flatnonzero((want == 0) & usable).tolist()


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_many_random_points_agree_with_peeling(columns):
    costs = np.random.default_rng(columns).random((400, columns))
    assert non_dominated_rank(costs).tolist() == brute_force_rank(costs).tolist()


def test_duplicate_points_share_a_rank():
    costs = np.array([[1, 2], [1, 2], [2, 1], [2, 2], [2, 2]])
    assert non_dominated_rank(costs).tolist() == [0, 0, 0, 1, 1]
    assert front(costs).tolist() == [0, 1, 2]


def test_nan_ranks_last_and_is_never_on_the_front():
    costs = np.array([[np.nan, 0], [1, 1], [2, 2]])
    assert non_dominated_rank(costs).tolist() == [2, 0, 1]
    assert front(costs[:1]).tolist() == []


def test_points_that_miss_their_constraints_come_after_all_that_meet_them():
    costs = np.array([[9.0, 9], [8, 8], [0, 0], [0, 0], [1, 1]])
    violation = np.array([0, -3.0, 0.5, 0.2, 0.2])
    assert non_dominated_rank(costs, violation).tolist() == [1, 0, 3, 2, 2]
    assert front(costs[2:], violation[2:]).tolist() == [1, 2]


def test_crowding_is_infinite_at_the_ends_and_the_share_of_the_gap_between():
    costs = np.array([[0, 10], [1, 6], [4, 4], [10, 0], [3, 12]])
    distance = crowding_distance(costs, np.array([0, 0, 0, 0, 1]))
    assert distance[[0, 3, 4]].tolist() == [np.inf] * 3
    assert distance[1] == pytest.approx(4 / 10 + 6 / 10)
    assert distance[2] == pytest.approx(9 / 10 + 6 / 10)


def test_crowding_of_equal_or_infinite_points_is_a_number():
    costs = np.array([[1.0, np.inf]] * 4 + [[np.nan, 1.0]] * 3)
    distance = crowding_distance(costs, np.array([0] * 4 + [1] * 3))
    assert not np.isnan(distance).any()
    assert crowding_distance(np.empty((0, 2)), np.empty(0, dtype=np.int64)).shape == (0,)


def test_hypervolume_of_a_staircase():
    costs = np.array([[1.0, 3], [2, 2], [3, 1], [3, 3], [9, 0], [np.nan, 1]])
    assert hypervolume_2d(costs, (4, 4)) == pytest.approx(3 + 2 + 1)
    assert hypervolume_2d(costs, (1, 1)) == 0
    assert hypervolume_2d(np.empty((0, 2)), (1, 1)) == 0


def test_large_fronts_are_fast_enough():
    costs = np.random.default_rng(0).random((50_000, 2))
    rank = non_dominated_rank(costs)
    assert np.flatnonzero(rank == 0).tolist() == front(costs).tolist()

"""Domination among points: lower is better in every column of `costs` (n, m).

`violation` (n,) says by how much each point misses its constraints, 0 or less when it meets them.
Points that meet them come before all that do not, and those are ordered by violation alone.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np


def non_dominated_rank(costs: np.ndarray, violation: np.ndarray | None = None) -> np.ndarray:
    """Rank points by domination; 0 is the front.

    The result is (n,) int64. Equal rows share a rank. Rows with a NaN, in costs or violation,
    rank last, all alike.
    """
    costs = np.asarray(costs, dtype=np.float64)
    excess = _excess(costs, violation)
    unusable = np.isnan(costs).any(axis=1) | np.isnan(excess)
    rank = np.zeros(len(costs), dtype=np.int64)
    good = np.flatnonzero(~unusable & (excess == 0))
    rank[good] = _rank_feasible(costs[good])
    following = int(rank[good].max()) + 1 if len(good) else 0
    missed = np.flatnonzero(~unusable & (excess > 0))
    levels, position = np.unique(excess[missed], return_inverse=True)
    rank[missed] = following + position
    rank[unusable] = following + len(levels)
    return rank


def front(costs: np.ndarray, violation: np.ndarray | None = None) -> np.ndarray:
    """Indices, ascending, of the points that no other dominates; rows with a NaN never count."""
    costs = np.asarray(costs, dtype=np.float64)
    excess = _excess(costs, violation)
    usable = np.flatnonzero(~(np.isnan(costs).any(axis=1) | np.isnan(excess)))
    if len(usable) == 0:
        return usable
    least = excess[usable].min()
    best: np.ndarray = usable[excess[usable] == least]
    if least > 0:
        return best
    points, position = _distinct(costs[best])
    best = best[_front_of_sorted(points)[position]]
    return best


def crowding_distance(costs: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """How far each point is from its neighbours of the same rank, (n,); ends are infinite.

    It is the sum over columns of the gap between the neighbours, as a share of the rank's range.
    """
    n = len(costs)
    distance = np.zeros(n)
    for column in np.asarray(costs, dtype=np.float64).T:
        order = np.lexsort((column, rank))
        values, ranks = column[order], rank[order]
        first = np.ones(n, dtype=bool)
        first[1:] = ranks[1:] != ranks[:-1]
        last = np.ones(n, dtype=bool)
        last[:-1] = first[1:]
        group = np.cumsum(first) - 1
        gap = np.zeros(n)
        with np.errstate(invalid="ignore", divide="ignore"):
            span = (values[last] - values[first])[group]
            gap[1:-1] = (values[2:] - values[:-2]) / span[1:-1]
        gap[~np.isfinite(gap)] = 0  # all equal, or infinitely far apart
        gap[first | last] = np.inf
        distance[order] += gap
    return distance


def hypervolume_2d(costs: np.ndarray, reference: tuple[float, float]) -> float:
    """Area that the points (n, 2) dominate below `reference`; points beyond it add nothing."""
    costs = np.asarray(costs, dtype=np.float64)
    inside = costs[(costs < np.asarray(reference)).all(axis=1)]
    points, _ = _distinct(inside[front(inside)])
    if len(points) == 0:
        return 0.0
    heights = np.concatenate([[reference[1]], points[:-1, 1]]) - points[:, 1]
    return float(((reference[0] - points[:, 0]) * heights).sum())


def _excess(costs: np.ndarray, violation: np.ndarray | None) -> np.ndarray:
    if violation is None:
        return np.zeros(len(costs))
    return np.maximum(np.asarray(violation, dtype=np.float64), 0)


def _distinct(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows in lexicographic order, and where each row of `points` is among them."""
    order = np.lexsort(points.T[::-1]) if points.shape[1] else np.arange(len(points))
    ordered = points[order]
    new = np.ones(len(points), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    position = np.empty(len(points), dtype=np.int64)
    position[order] = np.cumsum(new) - 1
    return ordered[new], position


def _rank_feasible(costs: np.ndarray) -> np.ndarray:
    points, position = _distinct(costs)
    if points.shape[1] <= 1:
        return position
    ranked = _rank_pairs(points) if points.shape[1] == 2 else _rank_many(points)
    result: np.ndarray = ranked[position]
    return result


def _rank_pairs(points: np.ndarray) -> np.ndarray:
    """Ranks of distinct, sorted points (n, 2) in O(n log n).

    A front dominates a later point when its smallest second cost is not larger than the point's;
    those smallest costs grow from front to front.
    """
    lowest: list[float] = []
    ranks = []
    for second in points[:, 1].tolist():
        rank = bisect_right(lowest, second)
        if rank == len(lowest):
            lowest.append(second)
        else:
            lowest[rank] = second
        ranks.append(rank)
    return np.array(ranks, dtype=np.int64)


def _rank_many(points: np.ndarray) -> np.ndarray:
    """Ranks of distinct, sorted points (n, m): binary search for the first front without a better.

    Whoever is dominated by a member of a front is dominated by one of every earlier front.
    """
    members: list[np.ndarray] = []
    sizes: list[int] = []
    ranks = np.empty(len(points), dtype=np.int64)
    rest = points[:, 1:]  # the order settles the first column
    for index, point in enumerate(rest):
        low, high = 0, len(members)
        while low < high:
            middle = (low + high) // 2
            if (members[middle][: sizes[middle]] <= point).all(axis=1).any():
                low = middle + 1
            else:
                high = middle
        if low == len(members):
            members.append(np.empty((8, rest.shape[1])))
            sizes.append(0)
        if sizes[low] == len(members[low]):
            members[low] = np.concatenate([members[low], np.empty_like(members[low])])
        members[low][sizes[low]] = point
        sizes[low] += 1
        ranks[index] = low
    return ranks


def _front_of_sorted(points: np.ndarray) -> np.ndarray:
    """Which of distinct, sorted points (n, m) no other dominates, (n,) bool."""
    chosen = np.ones(len(points), dtype=bool)
    if points.shape[1] <= 1:
        chosen[1:] = False
        return chosen
    if points.shape[1] == 2:
        lowest = np.minimum.accumulate(points[:, 1])
        chosen[1:] = points[1:, 1] < lowest[:-1]
        return chosen
    rest = points[:, 1:]
    kept = np.empty_like(rest)
    count = 0
    for index, point in enumerate(rest):
        if (kept[:count] <= point).all(axis=1).any():
            chosen[index] = False
        else:
            kept[count] = point
            count += 1
    return chosen

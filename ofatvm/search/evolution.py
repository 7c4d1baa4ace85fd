"""Evolution of architectures (NSGA-II) on arrays: whole generations at a time, one generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ofatvm.arch import ArchSpace
from ofatvm.errors import ArchError, BudgetError
from ofatvm.search.pareto import crowding_distance, front, non_dominated_rank

_TRIES = 4  # rounds of mating to fill a generation with architectures not seen before
_HASH_SEED = 20260101


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a generation costs: `costs` (n, m), lower is better, and `violation` (n,).

    Violation is by how much the budgets are missed, as a share of each and summed; 0 when all
    are met.
    """

    costs: np.ndarray
    violation: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class EvolutionResult:
    """Distinct architectures that nothing seen dominates, by ascending first cost.

    When nothing met the budgets it is what missed them least, and `feasible` is False.
    `evaluated` counts all architectures that were looked at, `generations` those completed.
    """

    rows: np.ndarray
    costs: np.ndarray
    violation: np.ndarray
    evaluated: int
    generations: int

    @property
    def feasible(self) -> bool:
        """Whether the budgets are met."""
        return len(self.rows) > 0 and bool((self.violation <= 0).all())


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    rows: np.ndarray
    costs: np.ndarray
    violation: np.ndarray

    def __getitem__(self, index: np.ndarray) -> _Pool:
        return _Pool(self.rows[index], self.costs[index], self.violation[index])

    def __add__(self, other: _Pool) -> _Pool:
        return _Pool(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.costs, other.costs]),
            np.concatenate([self.violation, other.violation]),
        )

    def best(self) -> _Pool:
        return self[front(self.costs, self.violation)]


def evolve(
    space: ArchSpace,
    objectives: Callable[[np.ndarray], Evaluation],
    *,
    population: int,
    generations: int,
    rng: np.random.Generator,
    mutation_rate: float = 0.03,
    crossover_rate: float = 0.25,
    initial: np.ndarray | None = None,
    archive: bool = True,
    on_generation: Callable[[EvolutionResult], None] | None = None,
) -> EvolutionResult:
    """Search `space` for the front of `objectives`, which gets whole generations of rows.

    Evolution starts from `initial` rows, the smallest and the largest architecture, and random
    ones. With `archive` the result is the front of everything evaluated, without it that of the
    last population. No architecture is evaluated twice; when nothing new is found, it ends early.
    """
    _check(population, generations, mutation_rate, crossover_rate)
    seen: set[int] = set()
    start = _first_rows(space, rng, population, initial)
    pool = _evaluate(objectives, _unseen(start, seen, population))
    best = pool.best()
    evaluated, done = len(pool.rows), 0
    rank, crowding = _order(pool)
    while done < generations:
        children = _children(
            space, pool.rows, rank, crowding, rng, seen, population, mutation_rate, crossover_rate
        )
        if len(children) == 0:
            break
        born = _evaluate(objectives, children)
        evaluated += len(born.rows)
        done += 1
        best = (best + born.best()).best()
        merged = pool + born
        rank, crowding = _order(merged)
        survivors = np.lexsort((-crowding, rank))[:population]
        pool, rank, crowding = merged[survivors], rank[survivors], crowding[survivors]
        if on_generation is not None:
            on_generation(_result(best if archive else pool.best(), evaluated, done))
    return _result(best if archive else pool.best(), evaluated, done)


def _check(population: int, generations: int, mutation_rate: float, crossover_rate: float) -> None:
    if population < 2:
        raise BudgetError(f"population must be at least 2, got {population}")
    if generations < 0:
        raise BudgetError(f"generations must not be negative, got {generations}")
    for name, rate in (("mutation", mutation_rate), ("crossover", crossover_rate)):
        if not 0 <= rate <= 1:
            raise BudgetError(f"{name} rate must be between 0 and 1, got {rate}")


def _first_rows(
    space: ArchSpace, rng: np.random.Generator, population: int, initial: np.ndarray | None
) -> np.ndarray:
    ends = space.to_rows(
        [space.smallest(space.resolutions[0]), space.largest(space.resolutions[-1])]
    )
    parts = [ends, space.sample_rows(rng, 2 * population)]
    if initial is not None and len(initial):
        if initial.ndim != 2 or initial.shape[1] != space.row_width:
            raise ArchError(f"initial rows must be (n, {space.row_width}), got {initial.shape}")
        parts.insert(0, space.canonical_rows(initial.astype(np.int32)))
    return np.concatenate(parts)


def _evaluate(objectives: Callable[[np.ndarray], Evaluation], rows: np.ndarray) -> _Pool:
    result = objectives(rows)
    costs = np.asarray(result.costs, dtype=np.float64)
    violation = np.asarray(result.violation, dtype=np.float64)
    if costs.ndim != 2 or len(costs) != len(rows) or violation.shape != (len(rows),):
        raise ArchError(
            f"objectives gave costs {costs.shape} and violation {violation.shape} "
            f"for {len(rows)} rows"
        )
    return _Pool(rows, costs, violation)


def _order(pool: _Pool) -> tuple[np.ndarray, np.ndarray]:
    rank = non_dominated_rank(pool.costs, pool.violation)
    return rank, crowding_distance(pool.costs, rank)


def _result(best: _Pool, evaluated: int, generations: int) -> EvolutionResult:
    order = np.lexsort((*best.rows.T[::-1], *best.costs.T[::-1]))
    best = best[order]
    return EvolutionResult(best.rows, best.costs, best.violation, evaluated, generations)


def _children(
    space: ArchSpace,
    rows: np.ndarray,
    rank: np.ndarray,
    crowding: np.ndarray,
    rng: np.random.Generator,
    seen: set[int],
    count: int,
    mutation_rate: float,
    crossover_rate: float,
) -> np.ndarray:
    """Up to `count` architectures not seen before, drawn anew where mating finds too few."""
    born: list[np.ndarray] = []
    missing = count
    for _ in range(_TRIES):
        parents = _tournament(rank, crowding, rng, 2 * missing)
        left, right = rows[parents[:missing]], rows[parents[missing:]]
        children = _cross(space, left, right, rng, crossover_rate)
        born.append(_unseen(_mutate(space, children, rng, mutation_rate), seen, missing))
        missing -= len(born[-1])
        if missing == 0:
            return np.concatenate(born)
    born.append(_unseen(space.sample_rows(rng, _TRIES * count), seen, missing))
    return np.concatenate(born)


def _tournament(
    rank: np.ndarray, crowding: np.ndarray, rng: np.random.Generator, count: int
) -> np.ndarray:
    """Indices of winners among random pairs: the lower rank, then the less crowded."""
    one, two = rng.integers(0, len(rank), size=(2, count))
    second = (rank[two] < rank[one]) | ((rank[two] == rank[one]) & (crowding[two] > crowding[one]))
    winners: np.ndarray = np.where(second, two, one)
    return winners


def _cross(
    space: ArchSpace,
    left: np.ndarray,
    right: np.ndarray,
    rng: np.random.Generator,
    rate: float,
) -> np.ndarray:
    """Children that take whole stages, or single blocks, from one parent or the other.

    Blocks that the taken depth adds are left at 0, for `_mutate` to fill.
    """
    n, blocks, stages = len(left), space.blocks, len(space.stages)
    mated = rng.random((n, 1), dtype=np.float32) < rate
    by_stage = rng.random((n, 1), dtype=np.float32) < 0.5
    stage = (rng.random((n, stages), dtype=np.float32) < 0.5) & mated
    block = (rng.random((n, blocks), dtype=np.float32) < 0.5) & mated
    block = np.where(by_stage, np.repeat(stage, space.max_depth, axis=1), block)
    resolution = (rng.random((n, 1), dtype=np.float32) < 0.5) & mated
    from_right = np.concatenate([block, block, stage, resolution], axis=1)
    return np.where(from_right, right, left)


def _mutate(
    space: ArchSpace, rows: np.ndarray, rng: np.random.Generator, rate: float
) -> np.ndarray:
    """Redraw entries at `rate` and those of blocks that a parent lacked, then make canonical."""
    n, blocks, stages = len(rows), space.blocks, len(space.stages)
    drawn = np.empty_like(rows)
    drawn[:, :blocks] = rng.choice(space.kernels, size=(n, blocks))
    drawn[:, blocks : 2 * blocks] = rng.choice(space.expands, size=(n, blocks))
    drawn[:, 2 * blocks : 2 * blocks + stages] = rng.choice(space.depths, size=(n, stages))
    drawn[:, -1] = rng.choice(space.resolutions, size=n)
    redrawn = (rng.random(rows.shape, dtype=np.float32) < rate) | (rows == 0)
    return space.canonical_rows(np.where(redrawn, drawn, rows))


def _unseen(rows: np.ndarray, seen: set[int], limit: int) -> np.ndarray:
    """The first `limit` rows that are new, each once, in order; these are added to `seen`."""
    factors = np.random.default_rng(_HASH_SEED).integers(0, 2**64, rows.shape[1], dtype=np.uint64)
    # Sums modulo 2**64 with random odd factors: two rows collide with a chance of 2**-63.
    hashes = np.einsum("nw,w->n", rows.astype(np.uint64), factors | np.uint64(1))
    kept: list[int] = []
    for index, value in enumerate(hashes.tolist()):
        if len(kept) == limit:
            break
        if value not in seen:
            seen.add(value)
            kept.append(index)
    return rows.take(kept, axis=0)

import numpy as np
import pytest

from ofatvm.arch import ArchSpace, StageSpec
from ofatvm.errors import ArchError, BudgetError
from ofatvm.predict.accuracy import find_accuracy_model
from ofatvm.predict.features import SpaceTables
from ofatvm.search.evolution import Evaluation, evolve
from ofatvm.search.pareto import front, hypervolume_2d
from ofatvm.spaces import OFA_SPACE, SPACES

SPACE = SPACES[OFA_SPACE].at(224)
TINY = ArchSpace(
    name="tiny",
    code="tiny",
    stem_width=8,
    first_width=8,
    stages=(StageSpec(8, 2, "relu", False),),
    head_width=8,
    feature_width=8,
    classes=2,
    resolutions=(16, 32),
    kernels=(3, 5),
    expands=(2, 3),
    depths=(1, 2),
)


@pytest.fixture(scope="module")
def objectives():
    tables, accuracy = SpaceTables.build(SPACE, 224), find_accuracy_model(SPACE)

    def evaluate(rows, budget=np.inf):
        macs = tables.macs(rows) / 1e6
        costs = np.stack([macs, -accuracy.predict(rows)], axis=1)
        return Evaluation(costs, np.maximum(macs / budget - 1, 0))

    return evaluate


def run(objectives, seed=0, **changes):
    options = {"population": 100, "generations": 20} | changes
    return evolve(SPACE, objectives, rng=np.random.default_rng(seed), **options)


def test_evolution_beats_random_sampling_of_the_same_size(objectives):
    result = run(objectives)
    rows = SPACE.sample_rows(np.random.default_rng(1), result.evaluated)
    reference = (600.0, -70.0)
    sampled = hypervolume_2d(objectives(rows).costs, reference)
    assert hypervolume_2d(result.costs, reference) > 1.03 * sampled
    assert result.evaluated == 100 * 21
    assert result.generations == 20


def test_result_is_a_front_of_distinct_canonical_architectures(objectives):
    result = run(objectives)
    assert len(front(result.costs)) == len(result.rows)
    assert len(np.unique(result.rows, axis=0)) == len(result.rows)
    assert (SPACE.to_rows(SPACE.from_rows(result.rows)) == result.rows).all()
    assert (objectives(result.rows).costs == result.costs).all()
    assert (np.diff(result.costs[:, 0]) >= 0).all()
    assert result.feasible


def test_same_seed_same_result_and_another_seed_another(objectives):
    one, two, other = run(objectives), run(objectives), run(objectives, seed=1)
    assert one.rows.tobytes() == two.rows.tobytes()
    assert one.costs.tobytes() == two.costs.tobytes()
    assert one.rows.tobytes() != other.rows.tobytes()


def test_no_architecture_is_evaluated_twice(objectives):
    met = []

    def watch(rows):
        met.append(rows.copy())
        return objectives(rows)

    result = run(watch)
    every = np.concatenate(met)
    assert len(np.unique(every, axis=0)) == len(every) == result.evaluated
    best = front(objectives(every).costs)
    assert {row.tobytes() for row in every[best]} == {row.tobytes() for row in result.rows}


def test_budget_is_met_and_used_up(objectives):
    result = run(lambda rows: objectives(rows, budget=200.0), generations=40)
    assert result.feasible
    assert result.costs[:, 0].max() <= 200
    assert result.costs[:, 0].max() > 190


def test_infeasible_budget_ends_with_what_misses_it_least(objectives):
    result = run(lambda rows: objectives(rows, budget=50.0))
    assert not result.feasible
    smallest = objectives(SPACE.to_rows([SPACE.smallest()])).costs[0, 0]
    assert result.costs[:, 0].tolist() == [smallest]


def test_small_space_is_exhausted_and_ends():
    def size(rows):
        costs = np.stack([rows[:, :4].sum(1), -rows[:, 4:].sum(1)], axis=1)
        return Evaluation(costs, np.zeros(len(rows)))

    result = evolve(TINY, size, population=16, generations=1000, rng=np.random.default_rng(0))
    assert 36 <= result.evaluated <= 2 * TINY.size()
    assert result.generations < 1000


def test_starting_rows_are_kept_when_nothing_is_better(objectives):
    good = run(objectives, generations=30)
    again = run(objectives, seed=5, generations=0, initial=good.rows[:20])
    assert hypervolume_2d(again.costs, (600.0, -70.0)) >= hypervolume_2d(
        good.costs[:20], (600.0, -70.0)
    )


def test_dormant_entries_of_starting_rows_do_not_matter(objectives):
    rows = SPACE.sample_rows(np.random.default_rng(0), 10)
    dirty = np.where(rows == 0, 3, rows)
    one = run(objectives, initial=rows, generations=2)
    two = run(objectives, initial=dirty, generations=2)
    assert one.rows.tobytes() == two.rows.tobytes()


def test_without_archive_the_last_population_answers(objectives):
    kept = run(objectives, population=20, generations=60)
    last = run(objectives, population=20, generations=60, archive=False)
    assert len(last.rows) <= 20 < len(kept.rows)


def test_every_generation_is_told(objectives):
    told = []
    result = run(objectives, generations=5, on_generation=told.append)
    assert [step.generations for step in told] == [1, 2, 3, 4, 5]
    assert told[-1].evaluated == result.evaluated
    assert told[-1].rows.tobytes() == result.rows.tobytes()


def test_nan_costs_never_win(objectives):
    def broken(rows):
        evaluation = objectives(rows)
        evaluation.costs[rows[:, 0] == 3] = np.nan
        return evaluation

    result = run(broken, generations=5)
    assert np.isfinite(result.costs).all()
    assert (result.rows[:, 0] != 3).all()


def test_three_objectives(objectives):
    def evaluate(rows):
        two = objectives(rows)
        return Evaluation(np.column_stack([two.costs, rows[:, :20].sum(1)]), two.violation)

    result = run(evaluate, generations=5)
    assert len(front(result.costs)) == len(result.rows) > 10


@pytest.mark.parametrize(
    "changes",
    [{"population": 1}, {"generations": -1}, {"mutation_rate": 1.5}, {"crossover_rate": np.nan}],
    ids=str,
)
def test_settings_out_of_range_are_refused(objectives, changes):
    with pytest.raises(BudgetError):
        run(objectives, **changes)


def test_misshapen_input_is_refused(objectives):
    with pytest.raises(ArchError, match="initial rows"):
        run(objectives, initial=np.ones((3, 7), dtype=np.int32))
    with pytest.raises(ArchError, match="objectives gave"):
        run(lambda rows: Evaluation(np.ones((3, 2)), np.zeros(3)))

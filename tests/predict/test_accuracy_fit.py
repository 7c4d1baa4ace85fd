import numpy as np
import pytest

from ofatvm.arch import ArchSpace, StageSpec
from ofatvm.errors import DatasetError
from ofatvm.predict.accuracy import AccuracyModel
from ofatvm.predict.accuracy_fit import (
    FOLDS,
    Design,
    Penalties,
    Problem,
    stratified_folds,
    stratified_groups,
)
from ofatvm.predict.accuracy_terms import CROSS_SHARE, resolution_basis, state_basis
from ofatvm.predict.features import SpaceTables
from ofatvm.predict.report import spearman

TOY = ArchSpace(
    name="toy28",
    code="toy28",
    stem_width=8,
    first_width=8,
    stages=(
        StageSpec(16, 2, "relu", False),
        StageSpec(24, 1, "relu", True),
        StageSpec(32, 2, "h_swish", False),
        StageSpec(48, 1, "h_swish", True),
    ),
    head_width=96,
    feature_width=128,
    classes=10,
    resolutions=(20, 24, 28),
    stem_stride=1,
    in_channels=1,
    kernels=(3, 5, 7),
    expands=(3, 4, 6),
    depths=(1, 2, 3),
)
NOISE = 0.15


def toy_truth(rows):
    """Noiseless top-1 with diminishing returns and resolutions that favour some stages, (n,)."""
    blocks, rng = TOY.blocks, np.random.default_rng(3)
    there = rows[:, :blocks] > 0
    kernel = there * (rows[:, :blocks] - 5) / 4
    expand = there * (rows[:, blocks : 2 * blocks] - 4.5) / 3
    size = kernel @ rng.uniform(0, 0.4, blocks) + expand @ rng.uniform(0.1, 0.6, blocks)
    size += there @ rng.uniform(0.3, 1.0, blocks) + (kernel * expand) @ rng.normal(0, 0.15, blocks)
    size = (size - 5) / 1.5
    depths = rows[:, 2 * blocks : -1] - 2
    finer = (rows[:, -1] - 24) / 4
    gain = finer * (0.5 + 0.1 * size - 0.1 * depths[:, 0] + 0.1 * depths[:, 3]) - 0.1 * finer**2
    return 91 + 0.75 * (size - 0.15 * size**2 + gain)


def toy_table(count, seed=0):
    """Rows, top-1 with noise, and marks: two thirds count as drawn at random."""
    rng = np.random.default_rng(seed)
    rows = TOY.sample_rows(rng, count)
    return rows, toy_truth(rows) + rng.normal(0, NOISE, count), np.arange(count) % 3 > 0


@pytest.fixture(scope="module")
def toy_model():
    return AccuracyModel.fit(*toy_table(300), TOY)


@pytest.fixture(scope="module")
def unseen():
    return TOY.sample_rows(np.random.default_rng(99), 3000)


def test_three_hundred_noisy_rows_over_three_resolutions_suffice(toy_model, unseen):
    truth, predicted = toy_truth(unseen), toy_model.predict(unseen)
    assert 0.5 < truth.std() < 0.7
    evaluated = truth + np.random.default_rng(1).normal(0, NOISE, len(truth))
    assert spearman(predicted, evaluated) >= 0.9
    assert np.sqrt(((predicted - truth) ** 2).mean()) < NOISE
    for resolution in TOY.resolutions:
        here = unseen[:, -1] == resolution
        assert spearman(predicted[here], evaluated[here]) >= 0.88
        assert abs((predicted - truth)[here].mean()) < 0.05


def test_what_resolutions_do_to_stages_is_learned_from_clean_rows(unseen):
    rows, _, uniform = toy_table(600)
    model = AccuracyModel.fit(rows, toy_truth(rows), uniform, TOY)
    error = model.predict(unseen) - toy_truth(unseen)
    assert np.sqrt((error**2).mean()) < 0.06


def test_the_same_table_gives_the_same_model(toy_model, unseen):
    again = AccuracyModel.fit(*toy_table(300), TOY)
    assert (again.predict(unseen) == toy_model.predict(unseen)).all()
    assert again.about == toy_model.about


def test_a_single_resolution_needs_no_terms_of_its_own():
    rows, top1, uniform = toy_table(300)
    here = rows[:, -1] == 24
    model = AccuracyModel.fit(rows[here], top1[here], uniform[here], TOY)
    assert model.resolutions == (24,)
    assert (model.by_resolution == 0).all()


def test_chosen_penalties_are_at_least_as_good_as_any_fixed_ones(unseen):
    rows, top1, uniform = toy_table(120)
    truth = toy_truth(unseen)

    def rmse(penalties):
        model = AccuracyModel.fit(rows, top1, uniform, TOY, penalties=penalties)
        return np.sqrt(((model.predict(unseen) - truth) ** 2).mean())

    assert rmse(None) < 0.8 * rmse(Penalties(0.3, 0.3, 1.0, 0.3))
    assert rmse(None) < 0.8 * rmse(Penalties(1000.0, 1000.0, 1000.0, 1000.0))


def test_solution_agrees_with_least_squares_on_augmented_rows():
    rows, top1, uniform = toy_table(60)
    design = Design.of(rows, SpaceTables.build(TOY))
    weight = np.where(uniform, 2.0, 1.0)
    folds = stratified_folds(rows, 0)
    problem = Problem.of(design, top1, weight, folds)
    penalties = Penalties()
    diagonal = np.diag(np.sqrt(design.diagonal(penalties)))
    for fold in (None, 2):
        root = np.sqrt(weight)
        if fold is not None:
            root = np.delete(root, folds[fold])
        kept = np.arange(60) if fold is None else np.delete(np.arange(60), folds[fold])
        left = np.concatenate([design.columns[kept] * root[:, None], diagonal])
        right = np.concatenate([top1[kept] * root, np.zeros(len(diagonal))])
        expected = np.linalg.lstsq(left, right, rcond=None)[0]
        np.testing.assert_allclose(problem.solve(penalties, fold), expected, atol=1e-6)


def test_terms_read_from_a_solution_predict_what_the_columns_do():
    rows, _, _ = toy_table(60)
    tables = SpaceTables.build(TOY)
    design = Design.of(rows, tables)
    solution = np.random.default_rng(0).normal(size=design.columns.shape[1])
    found = design.terms(solution)
    model = AccuracyModel(
        tables, found.blocks, found.products, found.curves, found.resolutions, found.intercept
    )
    np.testing.assert_allclose(model.predict(rows), design.columns @ solution, atol=1e-8)


def test_bases_stand_for_one_term_per_part():
    kernels, expands = np.divmod(np.arange(9), 3)
    same_kernel, same_expand = kernels[:, None] == kernels, expands[:, None] == expands
    basis = state_basis(TOY)
    assert (basis[0] == 0).all()
    expected = 1 + same_kernel + same_expand + CROSS_SHARE**2 * np.eye(9)
    np.testing.assert_allclose(basis[1:] @ basis[1:].T, expected, atol=1e-12)
    assert resolution_basis((224,)).shape == (1, 0)
    assert resolution_basis((20, 24, 28)).shape == (3, 3)


def test_architectures_are_left_out_at_all_their_resolutions():
    rng = np.random.default_rng(0)
    archs = TOY.sample_rows(rng, 60)
    rows = np.concatenate([archs, archs[:20], archs[:20]])
    rows[:60, -1], rows[60:80, -1], rows[80:, -1] = 20, 24, 28
    folds = stratified_folds(rows, 1)
    assert sorted(np.concatenate(folds).tolist()) == list(range(100))
    assert len(folds) == FOLDS
    for fold in folds:
        others = np.delete(rows, fold, axis=0)
        assert not {r[:-1].tobytes() for r in rows[fold]} & {r[:-1].tobytes() for r in others}
        assert np.bincount(rows[fold, -1])[[20, 24, 28]].tolist() == [12, 4, 4]
    assert len(stratified_groups(rows, 1)) == 60


def test_rare_uniform_rows_decide_the_level(unseen):
    rows, top1, _ = toy_table(200)
    uniform = np.arange(200) < 30
    top1 = np.where(uniform, top1, top1 + 0.5)  # what a search met is better than it should be
    model = AccuracyModel.fit(rows, top1, uniform, TOY)
    assert abs((model.predict(unseen) - toy_truth(unseen)).mean()) < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, t, u: (r[:19], t[:19], u[:19]), "19 evaluated subnets are too few"),
        (lambda r, t, u: (r, np.where(u, t, np.nan), u), "0 to 100 percent, got nan for subnet 1"),
        (lambda r, t, u: (r, t + 50, u), "0 to 100 percent, got 14"),
        (lambda r, t, u: (r, np.full(60, 10.0), u), "all 60 subnets have the same top-1, 10.0 %"),
        (lambda r, t, u: (r, t[1:], u), "60 subnets, 59 accuracies"),
        (
            lambda r, t, u: tuple(
                x[np.r_[r[:, -1] != 24] | (np.arange(60) < 3)] for x in (r, t, u)
            ),
            "at resolution 24 are too few",
        ),
    ],
    ids=["few", "nan", "range", "same", "lengths", "resolution"],
)
def test_a_table_that_cannot_be_fitted_is_refused(change, message):
    with pytest.raises(DatasetError, match=message) as caught:
        AccuracyModel.fit(*change(*toy_table(60)), TOY)
    assert caught.value.hint or "pair up" in message or "59" in message


def test_uniform_marks_may_be_all_or_none(unseen):
    rows, top1, _ = toy_table(100)
    for marks in (np.ones(100, dtype=bool), np.zeros(100, dtype=bool)):
        model = AccuracyModel.fit(rows, top1, marks, TOY, penalties=Penalties())
        assert spearman(model.predict(unseen), toy_truth(unseen)) > 0.8

import numpy as np

from ofatvm.predict.ridge import Scaling, fit_ridge, gram, solve_positive


def test_solver_solves():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(30, 30))
    matrix, right = a @ a.T + np.eye(30), rng.normal(size=30)
    np.testing.assert_allclose(solve_positive(matrix, right), np.linalg.solve(matrix, right))


def test_ridge_finds_the_line_in_spite_of_outliers():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 2))
    target = 3 + x @ [2.0, -1.0] + rng.normal(0, 0.01, 60)
    target[:4] += 5
    scaling = Scaling.of(x)
    groups = [scaling(x[:, :])]
    (weights,), intercept = fit_ridge(groups, [gram(groups[0])], [1e-3], target)
    slopes = weights / scaling.scale
    np.testing.assert_allclose(slopes, [2, -1], atol=0.02)
    assert abs(intercept - float(scaling.center @ slopes) - 3) < 0.02


def test_strong_penalty_leaves_only_the_intercept():
    x = np.random.default_rng(2).normal(size=(20, 3))
    (weights,), intercept = fit_ridge([x], [gram(x)], [1e12], np.full(20, 7.0) + x[:, 0])
    assert np.abs(weights).max() < 1e-9
    assert abs(intercept - 7) < 0.6


def test_constant_columns_have_no_weight():
    x = np.stack([np.full(10, 5e8), np.arange(10.0)], axis=1)
    scaled = Scaling.of(x)(x + np.array([1.0, 0.0]))
    assert (scaled[:, 0] == 0).all()
    assert np.isfinite(Scaling.of(np.zeros((4, 2)), common=True)(np.ones((4, 2)))).all()

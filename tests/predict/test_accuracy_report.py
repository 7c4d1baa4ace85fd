import json

import numpy as np
import pytest
from scipy.stats import kendalltau

from ofatvm.errors import DatasetError
from ofatvm.predict.accuracy_report import (
    PointErrors,
    evaluate_fit,
    kendall,
    paired_noise,
    predict_by_macs,
)
from ofatvm.predict.features import SpaceTables
from tests.predict.test_accuracy_fit import NOISE, TOY, toy_table


@pytest.fixture(scope="module")
def report():
    return evaluate_fit(*toy_table(300), TOY, held_out=60, noise_percent=NOISE)


def test_held_out_rows_are_ranked_well_and_better_than_by_macs(report):
    assert (report.n_fit, report.held_out.n) == (240, 60)
    assert report.held_out.spearman >= 0.9
    assert report.held_out.rmse_points < 0.25
    assert abs(report.held_out.bias_points) < 0.08
    assert report.held_out.worst_points >= report.held_out.rmse_points
    assert report.macs_only.rmse_points > 1.2 * report.held_out.rmse_points
    assert report.noise_floor_points == NOISE


def test_each_resolution_is_held_out_and_judged_alone(report):
    assert sorted(report.by_resolution) == [20, 24, 28]
    shares = [errors.n for errors in report.by_resolution.values()]
    assert sum(shares) == 60
    rows = toy_table(300)[0]
    for resolution, errors in report.by_resolution.items():
        assert abs(errors.n - (rows[:, -1] == resolution).sum() / 5) <= 1
        assert errors.spearman > 0.7


def test_cross_validation_covers_every_row(report):
    assert report.cross_validated.n == 300
    assert NOISE < report.cross_validated.rmse_points < 0.22
    assert report.cross_validated.spearman > 0.9


def test_report_is_plain_json(report):
    content = json.loads(json.dumps(report.to_dict()))
    assert content["held_out"]["n"] == 60
    assert content["by_resolution"]["24"]["rmse_points"] == pytest.approx(
        report.by_resolution[24].rmse_points, abs=1e-4
    )


def test_the_split_follows_the_seed():
    rows, top1, uniform = toy_table(120)
    here = rows[:, -1] == 24
    table = rows[here], top1[here], uniform[here]
    one, same, other = (evaluate_fit(*table, TOY, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert one.held_out.n == round(0.2 * here.sum())


@pytest.mark.parametrize("held_out", [0, -3, 60, 1000, float("nan"), float("inf")])
def test_nothing_to_hold_out_or_to_fit_is_refused(held_out):
    with pytest.raises(DatasetError, match="cannot hold out"):
        evaluate_fit(*toy_table(60), TOY, held_out=held_out)


def test_a_table_too_small_to_split_is_refused():
    with pytest.raises(DatasetError, match="without those held out, 10 evaluated subnets are too"):
        evaluate_fit(*toy_table(60), TOY, held_out=50)
    rows, top1, uniform = toy_table(60)
    rows[:, -1] = 20
    rows[:6, :-1], rows[:6, -1] = rows[0, :-1], 28  # one architecture is all that is at 28
    with pytest.raises(DatasetError, match="no subnets at resolution 28 are left"):
        evaluate_fit(rows, top1, uniform, TOY)


def test_baseline_is_exact_where_top1_is_a_cubic_in_log_macs():
    rows, _, _ = toy_table(200)
    size = np.log(SpaceTables.build(TOY).macs(rows)) - 15
    top1 = 90 + size - 0.2 * size**2 + 0.05 * size**3 + (rows[:, -1] - 24) / 4
    predicted = predict_by_macs(rows[:150], top1[:150], rows[150:], TOY)
    np.testing.assert_allclose(predicted, top1[150:], atol=1e-5)


def test_point_errors_of_known_predictions():
    errors = PointErrors.of(np.array([1.0, 2.0, 5.0]), np.array([1.0, 3.0, 3.0]))
    assert errors.rmse_points == pytest.approx(np.sqrt(5 / 3))
    assert errors.bias_points == pytest.approx(1 / 3)
    assert errors.worst_points == 2
    single = PointErrors.of(np.array([1.0]), np.array([2.0]))
    assert (single.spearman, single.kendall) == (None, None)


def test_kendall_agrees_with_scipy_also_on_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 8, 50), rng.integers(0, 8, 50)
    assert kendall(a, b) == pytest.approx(kendalltau(a, b).statistic)
    assert kendall(a, np.ones(50)) is None


def draw_correct(rng, subnets, images):
    """Correctness where hard images are hard for all subnets, and the subnets' true accuracies."""
    skill = np.linspace(1.0, 1.6, subnets)
    hardness = rng.normal(0, 2.0, images)
    chance = 1 / (1 + np.exp(hardness - 2 * skill[:, None]))
    return rng.random((subnets, images)) < chance


def test_noise_is_that_of_a_subnet_against_the_others_on_fresh_images():
    draws = [draw_correct(np.random.default_rng(seed), 20, 800) for seed in range(400)]
    accuracy = np.array([100 * draw.mean(axis=1) for draw in draws])
    relative = accuracy - accuracy.mean(axis=1, keepdims=True)
    # A subnet is itself one of those it is compared with.
    true = np.sqrt(relative.var(axis=0).mean() * 20 / 19)
    estimates = [paired_noise(draw) for draw in draws[:50]]
    assert np.mean(estimates) == pytest.approx(true, rel=0.03)
    share = accuracy.mean() / 100
    binomial = 100 * np.sqrt(share * (1 - share) / 800)
    assert np.std(accuracy, axis=0).mean() > 1.1 * true
    assert true < 0.9 * binomial


def test_noise_agrees_with_its_formula():
    correct = draw_correct(np.random.default_rng(5), 7, 90).astype(float)
    left = correct - correct.mean(1, keepdims=True) - correct.mean(0) + correct.mean()
    expected = 100 * np.sqrt((left**2).sum() / (6 * 89) / 90)
    assert paired_noise(correct.astype(bool)) == pytest.approx(expected, rel=1e-12)


def test_subnets_that_agree_on_every_image_have_no_noise():
    assert paired_noise(np.tile(np.arange(50) % 3 > 0, (4, 1))) == 0.0
    for shape in ((1, 50), (50, 1), (50,)):
        with pytest.raises(DatasetError, match="2 subnets and 2 images"):
            paired_noise(np.ones(shape, dtype=bool))

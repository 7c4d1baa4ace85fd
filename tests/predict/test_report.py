import numpy as np
import pytest
from scipy.stats import spearmanr

from ofatvm.errors import UsageError
from ofatvm.predict.report import error_report, spearman


def test_report_of_known_errors():
    measured = np.array([10.0, 20.0, 40.0, 80.0])
    predicted = np.array([10.2, 18.6, 40.0, 96.0])
    report = error_report(predicted, measured, predicted * 0.9, predicted * 1.05)
    assert report.mape_percent == pytest.approx((2 + 7 + 0 + 20) / 4)
    assert report.bias_percent == pytest.approx((2 - 7 + 0 + 20) / 4)
    assert report.within_5_percent == 50
    assert report.within_10_percent == 75
    assert report.coverage == 0.5
    assert report.spearman == pytest.approx(1)
    assert report.to_dict()["n"] == 4


def test_rank_correlation_agrees_with_scipy_also_on_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 8, 50), rng.integers(0, 8, 50)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(a, np.ones(50)) is None


def test_nothing_to_compare_is_refused():
    with pytest.raises(UsageError):
        error_report(np.empty(0), np.empty(0))

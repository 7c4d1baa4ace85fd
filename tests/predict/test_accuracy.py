import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from ofatvm.arch import DEFAULT_SPACE, SPACES, parse_arch
from ofatvm.errors import ArchError, MissingInputError
from ofatvm.paths import data_dir
from ofatvm.predict.accuracy import AccuracyModel, find_accuracy_model

SPACE = SPACES[DEFAULT_SPACE].at(224)
PATH = data_dir("models") / "accuracy_ofa_mbv3_w1.0.json"

# From the table that the model was fitted to; (c) Intel Corporation, Apache-2.0.
KNOWN = {
    "55007750553053573300 34004440436033443430 23342": 74.8933,
    "53705570530075505770 43304330330043404440 33233": 74.9367,
    "37505750535035507750 64606440434044306340 33333": 75.7240,
}


def known_rows():
    rows = []
    for text in KNOWN:
        kernels, expands, depths = ([int(c) for c in part] for part in text.split())
        rows.append(SPACE.arch(kernels, expands, depths, 224))
    return SPACE.to_rows(rows)


@pytest.fixture(scope="module")
def model():
    return AccuracyModel.load(PATH)


@pytest.fixture(scope="module")
def fit_accuracy():
    path = Path(__file__).parents[2] / "benchmarks/fit_accuracy.py"
    spec = importlib.util.spec_from_file_location("fit_accuracy", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_known_subnets_are_predicted_within_two_tenths(model):
    np.testing.assert_allclose(model.predict(known_rows()), list(KNOWN.values()), atol=0.2)


def test_shipped_model_meets_its_targets_and_says_where_it_is_from(model):
    errors = model.about["errors"]
    assert errors["held_out_uniform_rows"] == 25
    assert errors["rmse_points"] <= 0.20
    assert abs(errors["bias_points"]) <= 0.05
    assert "DyNAS-T" in model.about["source"]
    assert "Apache-2.0" in model.about["licence"]
    assert model.about["command"] == "python benchmarks/fit_accuracy.py"


def test_shipped_model_is_what_the_command_fits(model, fit_accuracy, imagenet_rows):
    rows, top1, uniform = fit_accuracy.read_rows(imagenet_rows)
    again, errors = fit_accuracy.split_and_fit(rows, top1, uniform, fit_accuracy.SPLIT_SEED)
    np.testing.assert_allclose(again.predict(rows), model.predict(rows), atol=1e-4)
    recorded = model.about["errors"]
    assert {key: recorded[key] for key in errors} == errors
    drawn = model.predict(rows[uniform]) - top1[uniform]
    assert abs(drawn.mean()) < 0.05
    assert np.sqrt((drawn**2).mean()) < 0.2


def test_more_compute_is_worth_more_over_the_whole_range(model):
    ladder = [
        SPACE.uniform(kernel=k, expand=e, depth=d)
        for k, e, d in [(3, 3, 2), (3, 4, 2), (5, 4, 3), (5, 6, 3), (7, 6, 4)]
    ]
    predicted = model.predict(SPACE.to_rows(ladder))
    assert (np.diff(predicted) > 0).all()
    assert 68 < predicted[0] < 74
    assert 76 < predicted[-1] < 79


def test_whole_space_stays_plausible(model):
    rows = SPACE.sample_rows(np.random.default_rng(0), 20_000)
    predicted = model.predict(rows)
    assert predicted.shape == (20_000,)
    assert predicted.min() > 70
    assert predicted.max() < 79


def test_one_row_and_none_are_predicted_like_many(model):
    rows = SPACE.sample_rows(np.random.default_rng(1), 5000)
    assert model.predict(rows[4500:4501])[0] == pytest.approx(model.predict(rows)[4500])
    assert model.predict(rows[:0]).shape == (0,)


def test_other_resolutions_and_spaces_are_refused(model):
    arch = parse_arch("mbv3w1.0/160/33.33-33.33-33.33-33.33-33.33")
    with pytest.raises(ArchError, match="224, not at 160"):
        model.predict(SPACE.to_rows([arch]))
    wide = SPACES["ofa_mbv3_d234_e346_k357_w1.2"]
    for space in (wide.at(224), SPACE.at(160) if 160 in SPACE.resolutions else wide, wide):
        with pytest.raises(MissingInputError, match=space.name):
            model.require(space)
        with pytest.raises(MissingInputError, match="no accuracy model"):
            find_accuracy_model(space)
    model.require(SPACE)
    assert find_accuracy_model(SPACE).intercept == model.intercept


def test_saving_and_loading_keeps_the_predictions(model, tmp_path):
    path = tmp_path / "model.json"
    model.save(path, {"source": "a test"})
    again = AccuracyModel.load(path)
    np.testing.assert_allclose(again.predict(known_rows()), model.predict(known_rows()), atol=1e-6)
    assert again.about["source"] == "a test"


@pytest.mark.parametrize(
    "change",
    [{"schema": 2}, {"kind": "latency"}, {"space": 7}, {"terms": [[1.0]]}, {"intercept": None}],
    ids=lambda change: next(iter(change)),
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, change):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(json.loads(PATH.read_text()) | change))
    with pytest.raises((MissingInputError, ArchError)):
        AccuracyModel.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_a_file_that_is_no_model_is_refused(tmp_path, text):
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(MissingInputError, match="cannot be used"):
        AccuracyModel.load(path)
    with pytest.raises(MissingInputError, match="no accuracy model"):
        AccuracyModel.load(tmp_path / "absent.json")


def test_rows_of_two_resolutions_cannot_be_fitted():
    space = SPACES[DEFAULT_SPACE]
    rows = space.to_rows([space.smallest(160), space.smallest(224)])
    with pytest.raises(ArchError, match="one resolution"):
        AccuracyModel.fit(rows, np.array([70.0, 71.0]), np.array([True, True]), space)

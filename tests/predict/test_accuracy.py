import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofatvm.errors import ArchError, MissingInputError
from ofatvm.paths import data_dir
from ofatvm.predict.accuracy import AccuracyModel, find_accuracy_model
from ofatvm.predict.accuracy_fit import Penalties
from ofatvm.spaces import OFA_SPACE, SPACES, find_space, parse_arch

SPACE = SPACES[OFA_SPACE].at(224)
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
def several(tmp_path_factory):
    """A model of a variant of the space at three resolutions, and the file it was saved to."""
    space = find_space("mbv3w1.0.c10x1")
    rows = space.at(128, 160, 224).sample_rows(np.random.default_rng(0), 60)
    top1 = 80 + rows[:, 40:45].sum(axis=1) / 5 + rows[:, -1] / 100
    model = AccuracyModel.fit(rows, top1, np.ones(60, bool), space, penalties=Penalties())
    path = tmp_path_factory.mktemp("accuracy") / "several.json"
    model.save(path, {"source": "a test"})
    return model, path


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
    model.save(path, {"source": "a test", "schema": 77, "terms": 0})
    again = AccuracyModel.load(path)
    np.testing.assert_allclose(again.predict(known_rows()), model.predict(known_rows()), atol=1e-6)
    assert dict(again.about) == {"source": "a test"}
    assert json.loads(path.read_text())["schema"] == 2


def test_a_model_of_several_resolutions_comes_back_whole(several):
    fitted, path = several
    space = fitted.tables.space
    again = AccuracyModel.load(path)
    assert again.resolutions == (128, 160, 224)
    assert dict(again.about) == {"source": "a test"}
    rows = space.at(128, 160, 224).sample_rows(np.random.default_rng(2), 3000)
    predicted = again.predict(rows)
    np.testing.assert_allclose(predicted, fitted.predict(rows), atol=1e-6)
    assert again.predict(rows[77:78])[0] == pytest.approx(predicted[77])
    for resolutions in ((128,), (160, 224), (128, 160, 224)):
        again.require(space.at(*resolutions))
    with pytest.raises(MissingInputError, match=r"c10x1 at 128, 132"):
        again.require(space.at(128, 132))
    with pytest.raises(ArchError, match="128, 160, 224, not at 132"):
        again.predict(space.to_rows([space.smallest(132)]))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"schema": 3},
        {"kind": "latency"},
        {"space": 7},
        {"space": "unheard-of"},
        {"resolution": 225},
        {"resolution": [224]},
        {"terms": [[1.0]]},
        {"terms": [[1.0], 2.0]},
        {"intercept": None},
        {"intercept": 10**400},
        {"intercept": float("inf")},
        {"log_macs": [19.0, 0.0, 1.0, 1.0, 1.0]},
        {"log_macs": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, change):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(json.loads(PATH.read_text()) | change))
    with pytest.raises(MissingInputError, match=r"model\.json cannot be used: "):
        AccuracyModel.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000])
def test_a_file_that_is_no_model_is_refused(tmp_path, text):
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(MissingInputError, match="cannot be used"):
        AccuracyModel.load(path)
    with pytest.raises(MissingInputError, match="no accuracy model"):
        AccuracyModel.load(tmp_path / "absent.json")
    with pytest.raises(MissingInputError, match="cannot be used"):
        AccuracyModel.load(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def change_somewhere(content, data):
    """Replace or delete one entry, at the top or deeper."""
    place = content
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        inner = place[key]
        if not (isinstance(inner, list | dict) and inner and data.draw(st.booleans())):
            break
        place = inner
    if data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(VALUES)


def predict_or_why(path):
    """What a model in a file predicts, or why it cannot be used."""
    try:
        model = AccuracyModel.load(path)
    except MissingInputError as error:
        return error.message
    space = model.tables.space.at(*model.resolutions)
    return model.predict(space.sample_rows(np.random.default_rng(0), 10))


@pytest.mark.parametrize("schema", [1, 2])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_by_name_or_still_predicts(several, schema, data):
    path = several[1] if schema == 2 else PATH
    damaged = several[1].with_name("damaged.json")
    if data.draw(st.booleans()):
        content = json.loads(path.read_text())
        change_somewhere(content, data)
        damaged.write_text(json.dumps(content))
    else:
        raw = bytearray(path.read_bytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        damaged.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] or raw)
    predicted = predict_or_why(damaged)
    if isinstance(predicted, str):
        assert str(damaged) in predicted
    else:
        assert np.isfinite(predicted).all()

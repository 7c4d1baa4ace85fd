import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ofatvm.errors import MissingInputError, UsageError
from ofatvm.graph import operators
from ofatvm.predict import latency as fitting
from ofatvm.predict.baselines import baseline_reports, baselines
from ofatvm.predict.features import FUSED_KINDS, SpaceTables
from ofatvm.predict.latency import LatencyModel
from ofatvm.predict.report import error_report
from ofatvm.spaces import OFA_SPACE, SPACES

SPACE = SPACES[OFA_SPACE].at(224)
BIAS = {"depthwise": 1.15, "pointwise": 1.02, "dense": 1.3, "mean": 1.5, "conv": 1.0}


class World:
    """A made-up machine: kernels have their own times, nets take those with a bias and more."""

    def __init__(self, tables, seed, kernel_sd=0.15):
        self.tables = tables
        rng = np.random.default_rng(seed)
        draws = {}

        def times(graph, in_nets):
            result = {}
            for name, op in operators(graph).items():
                if op.kind in FUSED_KINDS:
                    continue
                key = (op.kind, op.in_shape, op.out_shape, op.kernel, op.stride)
                if key not in draws:
                    draws[key] = np.exp(rng.normal(0, [0.25, kernel_sd]))
                alone, beside = draws[key]
                time = alone * (op.macs / 3e7 + op.out_bytes / 8e6 + 0.002)
                result[name] = time * (BIAS[op.kind] * beside if in_nets else 1)
            return result

        self.kernel_ms = tables.additive(lambda graph: times(graph, False))
        self._net_ms = tables.additive(lambda graph: times(graph, True))

    def measure(self, rows, rng, noise=0.015):
        clean = self._net_ms(rows) + 0.3 + 0.004 * self.tables.kernels(rows)
        cache = np.maximum(self.tables.weight_bytes(rows) / 18e6 - 1, 0)
        return clean * (1 + 0.06 * cache) * np.exp(rng.normal(0, noise, len(rows)))


@pytest.fixture(scope="module")
def tables():
    return SpaceTables.build(SPACE, 224)


@pytest.fixture(scope="module")
def world(tables):
    return World(tables, seed=3)


@pytest.fixture(scope="module")
def fitted(world, tables):
    rng = np.random.default_rng(5)
    rows = SPACE.sample_rows(rng, 100)
    latency = world.measure(rows, rng)
    return LatencyModel.fit(
        rows, latency, world.kernel_ms(rows), SPACE, tables, kernel_ms=world.kernel_ms, seed=1
    )


def test_100_subnets_bring_the_error_near_the_noise(world, fitted):
    rng = np.random.default_rng(6)
    rows = SPACE.sample_rows(rng, 300)
    latency = world.measure(rows, rng)
    p = fitted.predict(rows, world.kernel_ms(rows))
    report = error_report(p.latency_ms, latency, p.low_ms, p.high_ms)
    assert report.mape_percent < 2.0
    assert report.spearman > 0.98
    assert 0.82 < report.coverage < 0.97
    assert (p.low_ms < p.latency_ms).all()
    assert (p.latency_ms < p.high_ms).all()
    assert abs(fitted.report.mape_percent - report.mape_percent) < 0.7
    assert fitted.report.mape_percent < fitted.known_report.mape_percent
    assert fitted.report.coverage is None, "of what the intervals were set by, they say nothing"


def test_it_beats_the_baselines(world, fitted, tables):
    rng = np.random.default_rng(5)
    rows = SPACE.sample_rows(rng, 100)
    latency = world.measure(rows, rng)
    test = SPACE.sample_rows(rng, 200)
    truth = world.measure(test, rng)
    known, test_known = world.kernel_ms(rows), world.kernel_ms(test)
    others = baselines(rows, latency, known, test, test_known, tables)
    assert list(others) == ["macs", "kernel sum", "one-hot XGBoost"]
    mine = error_report(fitted.predict(test, test_known).latency_ms, truth).mape_percent
    for name, predicted in others.items():
        assert mine < error_report(predicted, truth).mape_percent, name


def test_baselines_are_reported_on_what_they_were_not_fitted_to(world, tables):
    rng = np.random.default_rng(5)
    rows = SPACE.sample_rows(rng, 60)
    latency, known = world.measure(rows, rng), world.kernel_ms(rows)
    latency = rng.permutation(latency)  # nothing is left to learn, so that only memory would help
    reports = baseline_reports(rows, latency, known, tables, seed=1)
    assert list(reports) == ["macs", "kernel sum", "one-hot XGBoost"]
    model = LatencyModel.fit(rows, latency, known, SPACE, tables, seed=1)
    for report in (*reports.values(), model.report):
        assert report.n == 60
        assert report.mape_percent > 10
        assert report.spearman < 0.3, "a model that remembers would get them right"


@pytest.mark.parametrize("count", [10, 20])
def test_few_measurements_still_give_a_usable_model(world, tables, count):
    rng = np.random.default_rng(7)
    rows = SPACE.sample_rows(rng, count)
    model = LatencyModel.fit(rows, world.measure(rows, rng), world.kernel_ms(rows), SPACE, tables)
    test = SPACE.sample_rows(rng, 100)
    p = model.predict(test, world.kernel_ms(test))
    assert error_report(p.latency_ms, world.measure(test, rng)).mape_percent < 6


def test_errors_are_not_those_of_the_candidate_that_had_luck(tables, monkeypatch):
    # All candidates are equally bad: out of fold each is off by noise that has nothing to teach.
    said, truth = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rows = SPACE.sample_rows(rng, 20)
        known = tables.macs(rows) / 3e7
        count = len(fitting.FEATURE_PENALTIES) * len(fitting.BLOCK_PENALTIES)
        noise = rng.normal(0, 0.1, (count, len(rows)))
        monkeypatch.setattr(
            fitting, "_out_of_fold", lambda *_, noise=noise: (noise, np.zeros_like(noise))
        )
        said.append(LatencyModel.fit(rows, known, known, SPACE, tables).report.mape_percent)
        truth.append(100 * np.abs(np.expm1(noise)).mean())
    assert abs(np.mean(said) / np.mean(truth) - 1) < 0.07


def test_a_wild_measurement_does_not_spoil_the_model(world, tables):
    rng = np.random.default_rng(8)
    rows = SPACE.sample_rows(rng, 60)
    latency = world.measure(rows, rng)
    latency[:2] *= 3
    model = LatencyModel.fit(rows, latency, world.kernel_ms(rows), SPACE, tables)
    test = SPACE.sample_rows(rng, 100)
    truth = world.measure(test, rng)
    predicted = model.predict(test, world.kernel_ms(test)).latency_ms
    assert error_report(predicted, truth).mape_percent < 5


def test_save_and_load_predict_the_same(world, fitted, tables, tmp_path):
    fitted.save(tmp_path / "model")
    assert (tmp_path / "model/latency.ubj").stat().st_size > 0
    rows = SPACE.sample_rows(np.random.default_rng(9), 50)
    known = world.kernel_ms(rows)
    want = fitted.predict(rows, known)
    for again in (
        LatencyModel.load(tmp_path / "model"),
        LatencyModel.load(tmp_path / "model", tables),
    ):
        got = again.predict(rows, known)
        assert got.latency_ms.tolist() == want.latency_ms.tolist()
        assert got.high_ms.tolist() == want.high_ms.tolist()
        assert again.report == fitted.report
        assert again.known_report == fitted.known_report


def _edit(change):
    def damage(folder):
        path = folder / "latency.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


DAMAGES = {
    "no sidecar": lambda folder: (folder / "latency.json").unlink(),
    "no trees": lambda folder: (folder / "latency.ubj").unlink(),
    "torn sidecar": lambda folder: (folder / "latency.json").write_text('{"schema": 1, "ki'),
    "torn trees": lambda folder: (folder / "latency.ubj").write_bytes(b"{"),
    "other schema": _edit(lambda content: content.update(schema=2)),
    "not an object": lambda folder: (folder / "latency.json").write_text("[]"),
    "edited weight": _edit(lambda content: content.update(intercept=9.0)),
    "renamed feature": _edit(lambda content: content["features"].reverse()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_model_is_refused(fitted, tmp_path, damage):
    fitted.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(MissingInputError) as caught:
        LatencyModel.load(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


def test_a_model_of_another_resolution_is_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    with pytest.raises(MissingInputError, match="another space"):
        LatencyModel.load(tmp_path, SpaceTables.build(SPACES[OFA_SPACE], 160))


def test_bad_measurements_are_refused(world, tables):
    rows = SPACE.sample_rows(np.random.default_rng(0), 12)
    known = world.kernel_ms(rows)
    with pytest.raises(UsageError, match="at least 10"):
        LatencyModel.fit(rows[:9], known[:9], known[:9], SPACE, tables)
    with pytest.raises(UsageError, match="as many"):
        LatencyModel.fit(rows, known[:9], known, SPACE, tables)
    for bad in (np.nan, 0.0, -1.0, np.inf):
        latency = known.copy()
        latency[3] = bad
        with pytest.raises(UsageError, match="positive"):
            LatencyModel.fit(rows, latency, known, SPACE, tables)


def test_several_resolutions_are_one_model(tables):
    space = SPACES[OFA_SPACE].at(160, 224)
    both = SpaceTables.build(space)
    world = World(both, seed=4)
    rng = np.random.default_rng(1)
    rows, test = space.sample_rows(rng, 80), space.sample_rows(rng, 80)
    model = LatencyModel.fit(
        rows,
        world.measure(rows, rng),
        world.kernel_ms(rows),
        space,
        both,
        kernel_ms=world.kernel_ms,
    )
    predicted = model.predict(test, world.kernel_ms(test)).latency_ms
    assert error_report(predicted, world.measure(test, rng)).mape_percent < 4


def test_no_rows_give_no_predictions(fitted):
    empty = np.empty((0, SPACE.row_width), dtype=np.int32)
    assert fitted.predict(empty, np.empty(0)).latency_ms.shape == (0,)


SCRIPT = """
import hashlib
import numpy as np
from ofatvm.spaces import OFA_SPACE, SPACES
from ofatvm.predict.accuracy import find_accuracy_model
from ofatvm.predict.features import SpaceTables
from ofatvm.predict.latency import LatencyModel
from ofatvm.search.evolution import Evaluation, evolve
space = SPACES[OFA_SPACE].at(224)
tables = SpaceTables.build(space, 224)
rng = np.random.default_rng(0)
rows = space.sample_rows(rng, 100)
known = tables.macs(rows) / 3e7
model = LatencyModel.fit(rows, known * np.exp(rng.normal(0, .03, 100)), known, space, tables)
accuracy = find_accuracy_model(space)
def objectives(rows):
    latency = model.predict(rows, tables.macs(rows) / 3e7).latency_ms
    return Evaluation(np.stack([latency, -accuracy.predict(rows)], 1), np.zeros(len(rows)))
result = evolve(space, objectives, population=100, generations=5, rng=np.random.default_rng(1))
print(hashlib.sha256(result.rows.tobytes() + result.costs.tobytes()).hexdigest())
"""


def test_same_seed_gives_the_same_bits_whatever_the_threads_and_hash_seed():
    answers = set()
    for threads, hash_seed in (("1", "0"), ("2", "1")):
        environment = os.environ | {
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "PYTHONHASHSEED": hash_seed,
        }
        answers.add(
            subprocess.run(
                [sys.executable, "-c", SCRIPT],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
    assert len(answers) == 1

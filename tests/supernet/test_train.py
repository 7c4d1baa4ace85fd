import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from ofatvm.errors import CheckpointError, TrainingError
from ofatvm.events import Notice, Progress
from ofatvm.supernet.net import Supernet
from ofatvm.supernet.processes import Processes
from ofatvm.supernet.train import run_key, train
from ofatvm.supernet.training_state import FILE_NAME, load_state, save_state
from tests.conftest import ROOT
from tests.supernet.toy import TOY, bars, toy_config, toy_dataset

DATA = toy_dataset()


class Stop(Exception):
    """Ends a run as a kill would: between two steps, with no warning."""


def stopping_at(steps):
    seen = 0

    def listener(event):
        nonlocal seen
        if isinstance(event, Progress):
            seen += 1
            if seen == steps:
                raise Stop

    return listener


def weights(trained):
    return {name: tensor.clone() for name, tensor in trained.supernet.state_dict().items()}


def same(a, b):
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.parametrize("recipe", ["sandwich", "progressive"])
def test_a_run_cut_anywhere_gives_the_same_weights_and_curve(tmp_path, recipe):
    epochs = 2 if recipe == "sandwich" else 6
    config = toy_config(recipe, epochs, ema_decay=0.9)
    whole = train(DATA, TOY, config, tmp_path / "whole")
    steps = epochs * (96 // 16)
    for cut in (1, 5, 6, 7, steps - 1):
        folder = tmp_path / f"cut{cut}"
        with pytest.raises(Stop):
            train(DATA, TOY, config, folder, save_seconds=0.0, on_event=stopping_at(cut))
        parts = train(DATA, TOY, config, folder, save_seconds=0.0)
        assert same(weights(whole), weights(parts)), cut
        assert whole.history == parts.history, cut


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(DATA, TOY, toy_config(), tmp_path)
    events = []
    second = train(DATA, TOY, toy_config(), tmp_path, on_event=events.append)
    assert same(weights(first), weights(second))
    assert not any(isinstance(event, Progress) for event in events)
    assert second.history == first.history


def test_another_seed_gives_another_network(tmp_path):
    first = train(DATA, TOY, toy_config(), tmp_path / "a")
    other = train(DATA, TOY, toy_config(seed=1), tmp_path / "b")
    assert not same(weights(first), weights(other))


def test_it_learns(tmp_path):
    trained = train(toy_dataset(960), TOY, toy_config(epochs=4), tmp_path)
    assert trained.history[-1]["loss"] < 0.8 * trained.history[0]["loss"]
    from ofatvm.supernet.evaluate import Exam

    exam = Exam(bars(96, 3), bars(200, 4), DATA.mean, DATA.std)
    for arch in (TOY.largest(), TOY.smallest(), TOY.smallest(10)):
        assert exam.top1_percent(trained.supernet, arch) > 75


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": replace(DATA, digest="e" * 64)},
        {"config": toy_config(label_smoothing=0.0)},
        {"space": TOY.at(12)},
    ],
    ids=["data", "settings", "space"],
)
def test_a_state_of_another_run_is_refused_and_stays(tmp_path, other):
    train(DATA, TOY, toy_config(), tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    given = {"dataset": DATA, "space": TOY, "config": toy_config(), **other}
    with pytest.raises(CheckpointError, match="belongs to another run") as caught:
        train(**given, folder=tmp_path)
    assert "--fresh" in caught.value.hint
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_fresh_starts_over(tmp_path):
    first = train(DATA, TOY, toy_config(), tmp_path)
    other = train(DATA, TOY, toy_config(label_smoothing=0.0), tmp_path, fresh=True)
    assert not same(weights(first), weights(other))


def test_what_there_was_stays_until_a_fresh_run_has_a_state(tmp_path):
    first = train(DATA, TOY, toy_config(), tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    other = toy_config(label_smoothing=0.0)
    with pytest.raises(Stop):
        train(DATA, TOY, other, tmp_path, fresh=True, on_event=stopping_at(2))
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert same(weights(first), weights(train(DATA, TOY, toy_config(), tmp_path)))
    whole = train(DATA, TOY, other, tmp_path / "whole")
    with pytest.raises(Stop):
        train(DATA, TOY, other, tmp_path, fresh=True, save_seconds=0.0, on_event=stopping_at(3))
    assert same(weights(whole), weights(train(DATA, TOY, other, tmp_path)))


def test_watch_is_asked_after_every_epoch_and_cannot_disturb(tmp_path):
    def watch(supernet):
        assert not supernet.training
        with torch.no_grad():
            for parameter in supernet.parameters():
                parameter.zero_()
        torch.rand(7)
        return {"answer": 42.0}

    plain = train(DATA, TOY, toy_config(), tmp_path / "a")
    watched = train(DATA, TOY, toy_config(), tmp_path / "b", watch=watch)
    assert [entry["answer"] for entry in watched.history] == [42.0, 42.0]
    assert same(weights(plain), weights(watched))


def test_progress_names_loss_speed_and_accuracy(tmp_path):
    events = []
    train(
        DATA, TOY, toy_config(), tmp_path, watch=lambda _: {"largest": 90.0}, on_event=events.append
    )
    details = [event.detail for event in events if isinstance(event, Progress)]
    assert all("loss" in detail and "images/s" in detail for detail in details)
    assert "largest 90.00 %" in details[-1]
    assert any("largest 90.00 %" in e.text for e in events if isinstance(e, Notice))


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf)") as caught:
        train(DATA, TOY, toy_config(epochs=4, rate=1e9), tmp_path)
    assert "--learning-rate" in caught.value.hint


def test_norms_and_biases_do_not_decay(tmp_path):
    config = toy_config(rate=1e-12, weight_decay=0.5)
    start = Supernet(TOY, seed=0).state_dict()
    trained = train(DATA, TOY, replace(config, momentum=0.0), tmp_path).supernet.state_dict()
    assert torch.equal(start["first_conv.bn.weight"], trained["first_conv.bn.weight"])


def test_a_young_average_has_forgotten_the_random_start(tmp_path):
    config = toy_config(epochs=8)
    plain = weights(train(DATA, TOY, config, tmp_path / "a"))
    slow = replace(config, ema_decay=0.9999)
    average = weights(train(DATA, TOY, slow, tmp_path / "b"))
    start = Supernet(TOY, seed=0).state_dict()
    name = "classifier.linear.weight"
    moved, kept = (plain[name] - start[name]).norm(), (average[name] - start[name]).norm()
    assert kept > 0.4 * moved


@pytest.mark.parametrize(
    "changes", [{"phase": -1}, {"phase": 7}, {"step": 10**9}, {"step": -1}, {"phase": 1, "step": 1}]
)
def test_a_state_at_a_step_that_the_run_does_not_have_is_refused(tmp_path, changes):
    with pytest.raises(Stop):
        train(DATA, TOY, toy_config(), tmp_path, save_seconds=0, on_event=stopping_at(3))
    state = load_state(tmp_path, run_key(DATA, TOY, toy_config()))
    save_state(tmp_path, replace(state, **changes))
    with pytest.raises(CheckpointError, match="which this run does not have") as caught:
        train(DATA, TOY, toy_config(), tmp_path)
    assert "--fresh" in caught.value.hint


@pytest.mark.parametrize("group", ["momentum", "average"])
def test_a_state_with_tensors_of_another_shape_is_refused(tmp_path, group):
    config = toy_config(ema_decay=0.9)
    with pytest.raises(Stop):
        train(DATA, TOY, config, tmp_path, save_seconds=0, on_event=stopping_at(3))
    state = load_state(tmp_path, run_key(DATA, TOY, config))
    name = "classifier.linear.weight"
    tensors = {**state.tensors, group: {**state.tensors[group], name: torch.zeros(2)}}
    save_state(tmp_path, replace(state, tensors=tensors))
    with pytest.raises(CheckpointError, match="does not fit this network"):
        train(DATA, TOY, config, tmp_path)


def test_the_key_names_data_space_settings_and_processes():
    key = run_key(DATA, TOY, toy_config())
    assert key == run_key(DATA, TOY, toy_config())
    assert key != run_key(DATA, TOY, toy_config(), processes=2)
    assert math.isfinite(int(key, 16))


def test_another_number_of_processes_is_named_as_the_reason(tmp_path):
    train(DATA, TOY, toy_config(), tmp_path)
    with pytest.raises(CheckpointError, match=r"trained by 1 process, .* by 2") as caught:
        train(DATA, TOY, toy_config(), tmp_path, processes=Processes(0, 2))
    assert "without torchrun" in caught.value.hint
    state = load_state(tmp_path, run_key(DATA, TOY, toy_config()))
    save_state(tmp_path, replace(state, processes=2))
    with pytest.raises(CheckpointError, match=r"trained by 2 processes, .* by 1") as caught:
        train(DATA, TOY, toy_config(), tmp_path)
    assert "torchrun --nproc-per-node 2" in caught.value.hint


SCRIPT = """
import sys
from pathlib import Path
from ofatvm.supernet.processes import joined
from ofatvm.supernet.train import train
from tests.supernet.toy import TOY, toy_config, toy_dataset
import torch

torch.set_num_threads(1)
with joined() as processes:
    done = train(toy_dataset(), TOY, toy_config(epochs=int(sys.argv[2])), Path(sys.argv[1]),
                 processes=processes, save_seconds=0.0)
    assert processes.count == int(sys.argv[3])
    weights = {n: p.detach() for n, p in done.supernet.named_parameters()}
    torch.save(weights, Path(sys.argv[1]) / f"rank{processes.rank}.pt")
"""


def start(folder, *, epochs, processes):
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*command, script, folder, str(epochs), str(processes)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-3000:]


def test_two_processes_train_one_network(tmp_path):
    finish(start(tmp_path / "two", epochs=1, processes=2))
    first, second = (
        torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert same(first, second)
    begun = dict(Supernet(TOY, seed=0).named_parameters())
    assert not any(torch.equal(first[name], begun[name]) for name in first if first[name].ndim > 1)


def test_killed_and_started_again_it_gives_the_same_weights(tmp_path):
    finish(start(tmp_path / "whole", epochs=3, processes=1))
    state = tmp_path / "cut" / FILE_NAME
    process = start(tmp_path / "cut", epochs=3, processes=1)
    deadline = time.monotonic() + 200
    while not state.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "cut" / "rank0.pt").exists(), "it was too late to kill it"
    finish(start(tmp_path / "cut", epochs=3, processes=1))
    whole, cut = (
        torch.load(tmp_path / name / "rank0.pt", weights_only=True) for name in ("whole", "cut")
    )
    assert same(whole, cut)

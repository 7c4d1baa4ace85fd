import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofatvm.errors import CheckpointError, MissingInputError, OfatvmError
from ofatvm.supernet.training_state import FILE_NAME, TrainingState, load_state, save_state

STATE = TrainingState(
    key="k",
    phase=1,
    step=7,
    seconds=2.5,
    history=[{"phase": "sandwich", "epoch": 1, "loss": 0.5}],
    tensors={"model": {"a.weight": torch.arange(6.0).view(2, 3)}, "momentum": {}},
)


def about(folder, change):
    """Replace what the file says about itself by the text that `change` makes of it."""
    data = (folder / FILE_NAME).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["ofatvm-training"] = change(
        json.loads(header["__metadata__"]["ofatvm-training"])
    )
    encoded = json.dumps(header).encode()
    whole = len(encoded).to_bytes(8, "little") + encoded + data[8 + length :]
    (folder / FILE_NAME).write_bytes(whole)


def test_a_state_comes_back_as_it_was(tmp_path):
    save_state(tmp_path, STATE)
    found = load_state(tmp_path, "k")
    assert (found.phase, found.step, found.seconds) == (1, 7, 2.5)
    assert found.history == STATE.history
    assert torch.equal(found.tensors["model"]["a.weight"], STATE.tensors["model"]["a.weight"])


def test_there_is_nothing_to_go_on_from_in_an_empty_folder(tmp_path):
    assert load_state(tmp_path, "k") is None


def test_a_pipe_is_no_state_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / FILE_NAME)
    with pytest.raises(MissingInputError, match="no ordinary file"):
        load_state(tmp_path, "k")


def test_another_key_is_refused(tmp_path):
    save_state(tmp_path, STATE)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        load_state(tmp_path, "other")


def test_a_file_of_schema_1_is_read_by_the_key_it_had(tmp_path):
    save_state(tmp_path, STATE)
    about(
        tmp_path,
        lambda found: json.dumps(
            {name: value for name, value in found.items() if name != "processes"} | {"schema": 1}
        ),
    )
    found = load_state(tmp_path, "new", processes=3, older_key="k")
    assert (found.processes, found.step) == (3, 7)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        load_state(tmp_path, "k", processes=2, older_key="k of two")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("phase", "Infinity"),
        ("seconds", "1" + 400 * "0"),
        ("seconds", "NaN"),
        ("history", "[1]"),
        ("losses", "[null]"),
    ],
)
def test_numbers_that_are_none_are_damage(tmp_path, name, value):
    save_state(tmp_path, STATE)
    about(tmp_path, lambda found: json.dumps({**found, name: "HERE"}).replace('"HERE"', value))
    with pytest.raises(CheckpointError, match="is damaged"):
        load_state(tmp_path, "k")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_one_error_and_no_traceback(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("state")
    save_state(folder, STATE)
    whole = bytearray((folder / FILE_NAME).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    (folder / FILE_NAME).write_bytes(bytes(whole[: cut if data.draw(st.booleans()) else None]))
    message = ""
    try:
        load_state(folder, "k")
    except OfatvmError as error:
        message = error.message
    assert "\n" not in message

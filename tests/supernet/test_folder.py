import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ofatvm.errors import CheckpointError, MissingInputError, OfatvmError
from ofatvm.spaces import find_space
from ofatvm.supernet.folder import (
    CALIBRATION,
    EVALUATION,
    FILE_NAME,
    PNG,
    WEIGHTS,
    SupernetFolder,
    find_supernet,
    packed_images,
    read_supernet,
    write_supernet,
)
from tests.test_text import NAMES

PIXELS = np.arange(3 * 28 * 28, dtype=np.int64).reshape(3, 28, 28, 1).astype(np.uint8)
LABELS = np.array([2, 0, 1])


def make(path):
    folder = SupernetFolder(
        path=path,
        name="three",
        space=find_space("small28.c3x1"),
        classes=("a", "b c", "d/e"),
        mean=(0.5,),
        std=(0.25,),
        data={"name": "numbers"},
        training={},
        figures={},
    )
    return write_supernet(
        folder,
        {
            WEIGHTS: b"weights",
            CALIBRATION: packed_images(PIXELS, LABELS),
            EVALUATION: packed_images(PIXELS, LABELS),
            "samples/01-0.png": PNG + b"picture",
        },
    )


def test_class_names_of_any_script_come_back(tmp_path):
    for start in range(0, len(NAMES), 3):
        folder = replace(make(tmp_path), classes=NAMES[start : start + 3], name=NAMES[start])
        write_supernet(folder, {WEIGHTS: b"weights"})
        found = read_supernet(tmp_path)
        assert found.classes == NAMES[start : start + 3]
        assert found.name == NAMES[start]


def test_a_folder_comes_back_as_it_was_written(tmp_path):
    found = make(tmp_path)
    assert found == read_supernet(tmp_path) == find_supernet(str(tmp_path))
    assert found.space.classes == 3
    np.testing.assert_array_equal(found.evaluation().pixels, PIXELS)
    np.testing.assert_array_equal(found.evaluation().labels, LABELS)
    np.testing.assert_array_equal(found.calibration().pixels, PIXELS)
    assert found.samples() == [(tmp_path / "samples/01-0.png", "b c")]
    assert found.weights.read_bytes() == b"weights"


@pytest.mark.parametrize("name", [WEIGHTS, EVALUATION, "samples/01-0.png"])
def test_a_file_of_another_digest_is_not_used(tmp_path, name):
    found = make(tmp_path)
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="does not have the digest"):
        _ = found.weights, found.evaluation(), found.samples()


def test_a_missing_file_is_named(tmp_path):
    found = make(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(MissingInputError, match=r"weights\.safetensors cannot be read"):
        _ = found.weights


@pytest.mark.parametrize("name", [FILE_NAME, WEIGHTS, EVALUATION])
def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(tmp_path, name):
    found = make(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="cannot be read: it is no ordinary file") as caught:
        _ = read_supernet(tmp_path), found.weights, found.evaluation()
    assert str(tmp_path / name) in caught.value.message


def test_an_unfinished_training_says_how_to_go_on(tmp_path):
    (tmp_path / "training").mkdir()
    with pytest.raises(MissingInputError) as caught:
        read_supernet(tmp_path)
    assert "the same options continues it" in caught.value.hint


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(MissingInputError, match="no supernet 'imagenet-21k'"):
        find_supernet("imagenet-21k")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "small28"}, "3 classes, its space has 10"),
        ({"space": "huge"}, "unknown space"),
        ({"std": [0.0]}, "std above 0"),
        ({"mean": [0.1, 0.2]}, "need 1 values"),
        ({"mean": [float("nan")]}, "finite numbers"),
        ({"schema": 2}, "not of schema 1"),
        ({"extra": 1}, "unknown or missing keys"),
        ({"classes": ["a", "b", "\ud800"]}, "surrogates not allowed"),
        ({"data": {"licence": "\ud800"}}, "surrogates not allowed"),
        ({"classes": ["a", "b", "c\u001b[31m"]}, "must be one line of text"),
        ({"name": "n\nx"}, "printable text"),
    ],
)
def test_a_supernet_json_that_makes_no_sense_is_refused(tmp_path, changes, message):
    make(tmp_path)
    value = json.loads((tmp_path / FILE_NAME).read_text())
    (tmp_path / FILE_NAME).write_text(json.dumps({**value, **changes}))
    with pytest.raises(CheckpointError, match=message):
        read_supernet(tmp_path)


def test_labels_beyond_the_classes_are_refused(tmp_path):
    folder = make(tmp_path)
    bad = write_supernet(folder, {EVALUATION: packed_images(PIXELS, np.array([0, 1, 3]))})
    with pytest.raises(CheckpointError, match="label 3 of image 2"):
        bad.evaluation()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damage_to_the_description_is_one_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("supernet")
    make(path)
    whole = bytearray((path / FILE_NAME).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (path / FILE_NAME).write_bytes(bytes(whole))
    message = ""
    try:
        found = read_supernet(path)
        _ = found.weights, found.evaluation(), found.samples()
    except OfatvmError as error:
        message = error.message
    assert "\n" not in message


def test_a_sample_that_is_no_png_is_refused(tmp_path):
    found = make(tmp_path)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0"
    (tmp_path / "samples/01-0.png").write_bytes(eps)
    other = replace(
        found, files={**found.files, "samples/01-0.png": hashlib.sha256(eps).hexdigest()}
    )
    with pytest.raises(CheckpointError, match=r"01-0\.png is no PNG"):
        other.samples()

"""Weight files that are damaged, or made to harm: one line each, soon, and nothing runs."""

import os
import time

import pytest

from ofatvm.errors import CheckpointError
from ofatvm.supernet.checkpoint import load_weights
from tests.supernet.hostile_files import hostile


def test_hostile_files_are_refused_quickly_and_nothing_runs(state, small, tmp_path):
    canary = tmp_path / "canary"
    corpus = hostile(state, canary, tmp_path / "scratch.safetensors")
    path = None
    for name, data in corpus.items():
        path = tmp_path / name
        path.write_bytes(data)
        started = time.process_time()  # of this process: others may keep it waiting
        with pytest.raises(CheckpointError) as caught:
            load_weights(path, small)
        assert time.process_time() - started < 2, name
        assert not canary.exists(), name
        assert caught.value.message.isprintable(), name
        assert len(caught.value.message) < 6000, name
        path.unlink()


def test_the_reason_is_named(state, small, tmp_path):
    corpus = hostile(state, tmp_path / "canary", tmp_path / "scratch.safetensors")
    reasons = {
        "empty.pth": "is empty",
        "text.pth": "is not a weight file",
        "zip cut in the middle.pth": "truncated or damaged",
        "cut.safetensors": "truncated or damaged",
        "2^63.safetensors": "truncated or damaged",
        "zip bomb.pth": "compressed or overlap",
        "overlapping zip.pth": "compressed or overlap",
        "canary 2.pth": "names 'posix system'",
        "canary 5.pth": "names 'posix system'",
        "whole module.pth": "which weights do not need",
        "list.pth": "holds a list instead of a state dict",
    }
    for name, reason in reasons.items():
        (tmp_path / name).write_bytes(corpus[name])
        with pytest.raises(CheckpointError, match=reason):
            load_weights(tmp_path / name, small)


def test_folders_pipes_and_giants_are_refused(small, tmp_path):
    pipe, giant = tmp_path / "pipe.pth", tmp_path / "giant.pth"
    os.mkfifo(pipe)
    with giant.open("wb") as file:
        file.truncate(10 << 30)
    for path, reason in [
        (tmp_path, "not a regular file"),
        (pipe, "not a regular file"),
        (giant, "more than any checkpoint"),
    ]:
        with pytest.raises(CheckpointError, match=reason):
            load_weights(path, small)

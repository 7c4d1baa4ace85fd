"""A network trained alone starts where it is told to, moves what it may, and can be interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import train_alone as script
from benchmarks.train_alone import alone_phase, train_alone
from ofatvm.supernet.net import Subnet, Supernet, extract
from tests.supernet.toy import TOY, toy_config, toy_dataset

ARCH = TOY.smallest(10)
CONFIG = toy_config()
PHASE = replace(alone_phase(CONFIG, 2), warmup_epochs=0.0)
DATA = toy_dataset()


def norms_learn(name: str) -> bool:
    return ".bn." in name


def shared() -> Subnet:
    return extract(Supernet(TOY, seed=5), ARCH).eval()


def test_only_what_may_learn_moves_away_from_the_start(tmp_path: Path) -> None:
    trained, _ = train_alone(
        ARCH, DATA, CONFIG, PHASE, tmp_path, start=shared(), learns=norms_learn
    )
    assert not trained.training
    before = dict(shared().named_parameters())
    moved = {name for name, p in trained.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(filter(norms_learn, before))


def test_an_interrupted_one_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole(folder: Path) -> dict[str, torch.Tensor]:
        trained, _ = train_alone(
            ARCH, DATA, CONFIG, PHASE, folder, start=shared(), learns=norms_learn
        )
        return trained.state_dict()

    expected = whole(tmp_path / "whole")

    def interrupt(*words: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(script, "print", interrupt, raising=False)
        with pytest.raises(KeyboardInterrupt):
            whole(tmp_path / "cut")
    for name, tensor in whole(tmp_path / "cut").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)

"""`ofatvm train` and `ofatvm evaluate`, from pictures to a supernet folder and back."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofatvm.lock import lock_folder
from ofatvm.supernet.folder import read_supernet
from tests.supernet.toy import TOY, bars

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, count, seed in (("train", 240, 1), ("test", 60, 2)):
        images = bars(count, seed)
        names = np.array(["lying", "standing", "none"])
        np.savez(folder / f"{name}.npz", images=images.pixels, labels=images.labels, classes=names)
    return folder


@pytest.fixture(autouse=True)
def toy_space(monkeypatch: pytest.MonkeyPatch) -> None:
    from ofatvm import spaces

    monkeypatch.setitem(spaces.SPACES, TOY.name, TOY)


def words(pictures: Path, out: Path, *more: object) -> list[object]:
    return [
        *("train", "--data", pictures / "train.npz", "--test", pictures / "test.npz"),
        *("--space", "toy", "--out", out, "--epochs", 2, "--batch", 16, "--subnets", 60),
        *("--no-flip", "--name", "bars", *more),
    ]


@pytest.fixture
def trained(ofatvm: Run, pictures: Path, tmp_path: Path) -> Path:
    out = tmp_path / "bars"
    answer = ofatvm(*words(pictures, out, "--licence", "CC0"))
    assert answer.code == 0, answer.err
    assert f"ofatvm search --target host --supernet {out}" in answer.out
    return out


def test_it_leaves_a_folder_that_needs_the_pictures_no_more(
    trained: Path, ofatvm: Run, pictures: Path, tmp_path: Path
) -> None:
    folder = read_supernet(trained)
    assert folder.classes == ("lying", "standing", "none")
    assert folder.data["licence"] == "CC0"
    assert len(folder.evaluation()) == folder.data["val_images"] == 40
    assert len(folder.calibration()) == folder.data["train_images"] == 200
    assert [label for _, label in folder.samples()] == list(folder.classes)
    table = list(csv.DictReader((trained / "accuracy.csv").read_text().splitlines()))
    assert len(table) == 60
    card = (trained / "README.md").read_text()
    assert "CC0" in card
    assert f"{folder.figures['test']['largest_percent']:.2f} %" in card

    answer = ofatvm("evaluate", "--supernet", trained, "--arch", table[7]["arch"], "--json")
    found = json.loads(answer.out)
    assert answer.code == 0
    right = 100 * int(table[7]["correct"]) / int(table[7]["images"])
    assert found["subnets"][0]["top1_percent"] == pytest.approx(right, abs=1e-3)
    assert found["subnets"][0]["kind"] == "measured"

    good = (trained / "accuracy.json").read_bytes()
    (trained / "accuracy.json").write_text("{}")
    answer = ofatvm("evaluate", "--supernet", trained, "--count", 2)
    assert (answer.code, "accuracy.json" in answer.err) == (2, True)
    assert "evaluate" not in answer.err, "nothing is evaluated whose figures would be lost"
    (trained / "accuracy.json").write_bytes(good)

    answer = ofatvm(
        "evaluate", "--supernet", trained, "--data", pictures / "test.npz", "--count", 2
    )
    assert answer.code == 0
    assert "60 images of" in answer.out
    assert "measured" in answer.out

    # The same command has nothing left to do, and says the same.
    before = (trained / "supernet.json").read_text()
    again = ofatvm(*words(pictures, trained, "--licence", "CC0"))
    assert again.code == 0
    assert "epoch 1" not in again.err
    assert "evaluate" not in again.err
    same = {"files", "figures", "classes"}
    first, second = json.loads(before), json.loads((trained / "supernet.json").read_text())
    assert {key: first[key] for key in same} == {key: second[key] for key in same}

    # A shipped supernet, or one of another machine, comes without the state of its training.
    shutil.copytree(trained, tmp_path / "copy", ignore=lambda *_: ["training"])
    shipped = (tmp_path / "copy" / "supernet.json").read_bytes()
    refused = ofatvm(*words(pictures, tmp_path / "copy"))
    assert refused.code == 2
    assert f"{tmp_path / 'copy'} holds a finished supernet" in refused.err
    assert "--fresh" in refused.err
    assert (tmp_path / "copy" / "supernet.json").read_bytes() == shipped

    # Other settings are another run.
    other = ofatvm(*words(pictures, trained, "--label-smoothing", 0.2))
    assert other.code == 2
    assert "belongs to another run" in other.err
    assert (trained / "supernet.json").read_text() == json.dumps(second, indent=1) + "\n"


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--epochs", 0], 2, "--epochs must be a whole number from 1 to 10000, got 0"),
        (["--learning-rate", "nan"], 2, "--learning-rate must be a number"),
        (["--label-smoothing", 1], 2, "from 0 to below 1, got '1'"),
        (["--recipe", "progressive", "--epochs", 5], 2, "at least 6 epochs, got 5"),
        (["--learning-rate", 0], 2, "--learning-rate must be above 0 and at most 100, got 0"),
        (["--space", "toy.c5x1"], 2, "toy.c5x1 is for 5 classes of grey pictures"),
        (["--holdout", 5000], 2, "5000"),
        (["--space", "small29"], 2, "unknown space 'small29'"),
        (["--subnets", 10], 2, "--subnets must be a whole number from 40"),
        (["--data", "nowhere"], 5, "nowhere"),
        (["--test", "nowhere.npz"], 5, "nowhere.npz"),
    ],
)
def test_bad_values_are_one_line_before_any_training(
    ofatvm: Run, pictures: Path, tmp_path: Path, more: list[object], code: int, message: str
) -> None:
    answer = ofatvm(*words(pictures, tmp_path / "out", *more))
    assert answer.code == code, answer.err
    assert message in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_supernet_is_not_put_among_class_folders(ofatvm: Run, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    for option in ("--data", "--test"):
        given = ["--data", "nowhere", option, tmp_path]
        answer = ofatvm("train", *given, "--out", tmp_path / "mine")
        assert (answer.code, answer.out) == (2, "")
        assert f"lies among the class folders of {option}" in answer.err
        assert len(answer.err.strip().splitlines()) == 1


def test_a_test_set_is_not_what_was_trained_on(ofatvm: Run, pictures: Path, tmp_path: Path) -> None:
    data = pictures / "test.npz"
    answer = ofatvm(*words(pictures, tmp_path / "out", "--data", data, "--test", data))
    assert answer.code == 2
    assert "is what it trains on" in answer.err
    copy = shutil.copy(data, tmp_path / "copy.npz")
    answer = ofatvm(*words(pictures, tmp_path / "out", "--data", data, "--test", copy))
    assert answer.code == 2
    assert f"pictures in {copy} are in the training part of" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(
    ofatvm: Run, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    answer = ofatvm(*words(pictures, tmp_path))
    assert answer.code == 2
    assert "holds something else" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_two_trainings_do_not_write_into_one_folder(
    ofatvm: Run, pictures: Path, tmp_path: Path
) -> None:
    with lock_folder(tmp_path / "out" / "training", "training into"):
        answer = ofatvm(*words(pictures, tmp_path / "out"))
    assert answer.code == 1
    assert "another process is training into" in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_evaluate_wants_architectures_or_a_number(ofatvm: Run, trained: Path) -> None:
    for more in ([], ["--count", 2, "--arch", TOY.largest().encode()]):
        answer = ofatvm("evaluate", "--supernet", trained, *more)
        assert answer.code == 2
        assert "--count for random ones" in answer.err


def test_evaluate_refuses_pictures_of_more_classes(
    ofatvm: Run, trained: Path, tmp_path: Path
) -> None:
    np.savez(
        tmp_path / "other.npz",
        images=np.zeros((8, 12, 12), np.uint8),
        labels=np.arange(8) % 4,
    )
    answer = ofatvm(
        "evaluate", "--supernet", trained, "--count", 1, "--data", tmp_path / "other.npz"
    )
    assert answer.code == 2
    assert "the network knows 3 classes" in answer.err


def test_an_unfinished_supernet_says_what_to_do(ofatvm: Run, tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    answer = ofatvm("evaluate", "--supernet", tmp_path, "--count", 1)
    assert answer.code == 5
    assert "ofatvm train" in answer.err


def test_a_place_where_nothing_can_be_written_is_refused(ofatvm: Run, pictures: Path) -> None:
    answer = ofatvm(*words(pictures, Path("/proc/none/of/it")))
    assert answer.code == 2
    assert "cannot write the supernet /proc/none/of/it" in answer.err
    assert "give another --out" in answer.err


@pytest.mark.parametrize(("option", "value"), [("--name", "a\nb"), ("--licence", "\udcff")])
def test_names_that_could_not_be_read_back_are_refused_before_training(
    ofatvm: Run, pictures: Path, tmp_path: Path, option: str, value: str
) -> None:
    answer = ofatvm(*words(pictures, tmp_path / "out", option, value))
    assert answer.code == 2
    assert "one line of printable text" in answer.err
    assert not (tmp_path / "out").exists()


def test_an_interrupt_says_which_command_continues(
    ofatvm: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ofatvm.pipeline.train.train_supernet", interrupted)
    for more, again in ([], "the same command continues"), (["--fresh"], "without --fresh"):
        answer = ofatvm(*words(pictures, tmp_path / "out", *more))
        assert answer.code == 130
        assert again in answer.err

import pytest

from ofatvm.cli.tune import default_resolutions
from ofatvm.errors import CheckpointError
from ofatvm.pipeline.table import fewest_subnets
from ofatvm.pipeline.train import check_out
from ofatvm.spaces import find_space
from tests.supernet.toy import TOY


@pytest.mark.parametrize("names", [["diary.txt"], ["training", "README.md", "setup.py"], [".git"]])
def test_a_folder_of_something_else_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match="holds something else"):
        check_out(tmp_path)


def test_a_training_that_was_cut_at_once_goes_on(tmp_path):
    check_out(tmp_path / "new")
    (tmp_path / "training").mkdir()
    check_out(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["training/cats/1.png", "samples/mine.png", "README.md"],
        ["training/1.png"],
        ["training/.lock", "README.md"],
        ["training/training.safetensors", "samples/mine.png"],
        ["supernet.json", "samples/mine.png"],
    ],
)
def test_pictures_that_look_like_a_training_are_left_alone(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="holds something else"):
        check_out(tmp_path)


def test_what_a_kill_left_half_written_is_no_hindrance(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "training.safetensors").touch()
    (tmp_path / "training" / ".lock").touch()
    (tmp_path / "training" / ".table.jsonl.4242").touch()
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "00-0.png").touch()
    (tmp_path / ".weights.safetensors.4242").touch()
    check_out(tmp_path)
    (tmp_path / ".diary.txt.4242").touch()
    with pytest.raises(CheckpointError, match="holds something else"):
        check_out(tmp_path)


def test_a_finished_supernet_without_a_training_is_replaced_only_afresh(tmp_path):
    for name in ("supernet.json", "weights.safetensors", "README.md"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="holds a finished supernet") as caught:
        check_out(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert "another --out, or --fresh" in caught.value.hint
    check_out(tmp_path, fresh=True)
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "training.safetensors").touch()
    check_out(tmp_path)


def test_a_file_is_no_place_for_a_supernet(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match="cannot be a folder"):
            check_out(path)


def test_a_table_needs_eight_subnets_a_resolution():
    assert fewest_subnets(TOY) == 40
    assert fewest_subnets(find_space("mbv3w1.0")) == 200


def test_tuning_covers_all_resolutions_of_a_space_with_few():
    assert default_resolutions(find_space("small28")) == (20, 24, 28)
    assert default_resolutions(find_space("mbv3w1.0")) == (224,)

"""What --supernet, --space and --weights mean together, with a supernet shipped and without."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ofatvm.cli.space_options import find_source, read_source
from ofatvm.errors import ArchError, MissingInputError, UsageError
from ofatvm.spaces import OFA_SPACE, find_space
from ofatvm.supernet import folder
from ofatvm.supernet.folder import DEFAULT_SUPERNET, SupernetFolder

IMAGENET = "mbv3w1.0/128/33.33-33.33-33.33-33.33-33.33"
SMALL = find_space("small28")
OFA = {"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": 128}
OF_SMALL = {"ks": [3] * SMALL.blocks, "e": [2] * SMALL.blocks, "d": [1] * 4, "r": 20}


@pytest.fixture
def none_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder, "data_dir", lambda kind: tmp_path / "shipped" / kind)
    return tmp_path / "shipped" / "supernets"


@pytest.fixture
def shipped(none_shipped: Path, supernet: SupernetFolder) -> Path:
    shutil.copytree(supernet.path, none_shipped / DEFAULT_SUPERNET)
    return none_shipped / DEFAULT_SUPERNET


@pytest.mark.usefixtures("shipped")
def test_the_shipped_supernet_is_the_default_and_what_its_space_means() -> None:
    for source in (find_source(None, None), find_source(None, "small28")):
        assert source.space.code == "small28"
        assert source.supernet is not None
        assert source.supernet.path.name == DEFAULT_SUPERNET
        assert source.weights is None


@pytest.mark.usefixtures("shipped")
def test_another_space_or_a_weight_file_has_no_supernet() -> None:
    weights = Path("x.pth")
    for source, code, of_file in (
        (find_source(None, "mbv3w1.0"), "mbv3w1.0", None),
        (find_source(None, "small28.c5x3"), "small28.c5x3", None),
        (find_source(None, "mbv3w1.2", weights), "mbv3w1.2", weights),
        (find_source(None, "small28", weights), "small28", weights),
        (find_source(None, None, weights), find_space(OFA_SPACE).code, weights),
    ):
        assert (source.space.code, source.supernet, source.weights) == (code, None, of_file)


@pytest.mark.usefixtures("none_shipped")
def test_where_none_ships_it_is_ofas_space() -> None:
    assert find_source(None, None).space.name == OFA_SPACE
    assert find_source(None, "small28").supernet is None
    with pytest.raises(MissingInputError, match="no supernet"):
        find_source(DEFAULT_SUPERNET, None)


@pytest.mark.usefixtures("none_shipped")
def test_a_folder_says_its_space(supernet: SupernetFolder) -> None:
    for space in (None, "small28", SMALL.name):
        source = find_source(str(supernet.path), space)
        assert source.space == supernet.space
        assert source.supernet is not None
    with pytest.raises(UsageError, match="is not the space of the supernet blobs"):
        find_source(str(supernet.path), "mbv3w1.0")
    with pytest.raises(UsageError, match="exclude each other"):
        find_source(str(supernet.path), None, Path("x.pth"))


@pytest.mark.usefixtures("shipped")
def test_architectures_say_their_space_and_json_is_of_ofas() -> None:
    source, [arch] = read_source((IMAGENET,), None, None, None, None)
    assert (source.space.code, source.supernet) == ("mbv3w1.0", None)
    assert arch.encode() == IMAGENET
    source, [arch] = read_source((json.dumps(OFA),), None, None, None, None)
    assert (source.space.code, source.supernet) == ("mbv3w1.0", None)
    assert arch.encode() == IMAGENET
    source, [arch] = read_source((json.dumps(OF_SMALL),), None, None, "small28", None)
    assert source.supernet is not None
    assert arch == SMALL.smallest(20)
    source, _ = read_source((arch.encode(),), None, None, None, None, Path("x.pth"))
    assert (source.space.code, source.supernet, source.weights) == ("small28", None, Path("x.pth"))
    source, found = read_source((), None, None, None, None)
    assert found == []
    assert source.supernet is not None


@pytest.mark.usefixtures("none_shipped")
def test_architectures_of_another_space_than_the_supernets_are_refused(
    supernet: SupernetFolder,
) -> None:
    with pytest.raises(ArchError, match=r"is of space mbv3w1\.0, not small28"):
        read_source((IMAGENET,), None, str(supernet.path), None, None)


@pytest.mark.usefixtures("none_shipped")
@pytest.mark.parametrize("command", ["search", "compile", "describe", "profile"])
def test_options_that_disagree_are_one_line(
    ofatvm: Callable[..., Any], supernet: SupernetFolder, tmp_path: Path, command: str
) -> None:
    words: dict[str, tuple[object, ...]] = {
        "compile": ("--arch", IMAGENET),
        "describe": (IMAGENET,),
    }
    answer = ofatvm(
        *(command, "--target", "x86-64-v2", "--workspace", tmp_path),
        *("--supernet", supernet.path, "--space", "mbv3w1.0"),
        *words.get(command, ()),
    )
    assert (answer.code, answer.out) == (2, "")
    assert "is not the space of the supernet" in answer.err
    assert len(answer.err.splitlines()) == 1


@pytest.mark.usefixtures("none_shipped")
def test_describe_predicts_by_the_supernets_model(
    ofatvm: Callable[..., Any], supernet: SupernetFolder, tmp_path: Path
) -> None:
    archs = (SMALL.smallest(20).encode(), SMALL.largest().encode())
    words = ("describe", "--target", "x86-64-v2", "--workspace", tmp_path, "--json", "-q", *archs)
    answer = ofatvm(*words, "--supernet", supernet.path)
    assert answer.code == 0, answer.err
    small, large = (json.loads(line) for line in answer.out.splitlines())
    assert 70 < small["predicted_top1_percent"] < large["predicted_top1_percent"] < 95
    answer = ofatvm(*words)
    assert json.loads(answer.out.splitlines()[0])["predicted_top1_percent"] is None

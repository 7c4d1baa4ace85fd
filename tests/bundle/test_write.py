"""A bundle is written whole or not at all, and takes the place of nothing but a bundle."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofatvm.bundle.manifest import Agreement, Weights
from ofatvm.bundle.verify import verify_bundle
from ofatvm.bundle.write import write_bundle
from ofatvm.errors import BundleError, MissingInputError, OfatvmError
from ofatvm.target import Target
from tests.bundle.making import CLASSES, Tiny, make_bundle, make_manifest, png

OTHER = {"labels": [f"other {i}" for i in range(CLASSES)], "sample_image": png((9, 9))}
NAMES = [
    "README.md",
    "labels.txt",
    "main.cc",
    "manifest.json",
    "model.so",
    "run.py",
    "sample/image.png",
    "sample/input.npy",
    "sample/output.npy",
]


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_it_holds_what_the_design_says(bundle: Path, tiny: Tiny) -> None:
    files = contents(bundle)
    assert sorted(files) == NAMES
    manifest = json.loads(files["manifest.json"])
    assert sorted(manifest["files"]) == [name for name in NAMES if name != "manifest.json"]
    assert manifest["size_bytes"] == len(files["model.so"])
    assert manifest["machine"] == "x86_64"
    assert files["model.so"] == tiny.model.read_bytes()
    assert np.array_equal(np.load(bundle / "sample/output.npy"), tiny.result)
    assert "@INPUT_SHAPE@" not in files["main.cc"].decode()
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_labels_and_image_may_be_absent(tiny: Tiny, tmp_path: Path) -> None:
    out = make_bundle(tiny, tmp_path / "a/b/bundle", labels=None, sample_image=None)
    assert not (out / "labels.txt").exists()
    assert json.loads((out / "manifest.json").read_text())["labels"] is None
    assert verify_bundle(out, run=False).ran is False


def test_the_same_input_gives_the_same_bytes(tiny: Tiny, tmp_path: Path) -> None:
    assert contents(make_bundle(tiny, tmp_path / "a")) == contents(
        make_bundle(tiny, tmp_path / "b")
    )


def test_the_card_says_what_matters(bundle: Path) -> None:
    card = (bundle / "README.md").read_text()
    for words in (
        "The weights are untrained.",
        "meaningless",
        "71.50 %, predicted: ImageNet, 50,000 images",
        "2.5 ms median (95 % interval 2.4 to 2.6), p90 2.75 ms",
        "41,476,224 MACs",
        "100.0%",
        "apache-tvm==0.27.0.post1",
        "ofatvm verify .",
        "g++ -std=c++17",
        "Apache License 2.0",
    ):
        assert words in card
    assert "$" not in card.split("```")[0]


def test_a_licence_and_an_agreement_are_in_the_card(tiny: Tiny, tmp_path: Path) -> None:
    manifest = make_manifest(
        weights=Weights(source="file", detail="supernet x"),
        agreement=Agreement(images=10_000, same_class_percent=99.98),
    )
    out = make_bundle(tiny, tmp_path / "b", manifest=manifest, licence="MIT\n<b>$x</b>.")
    card = (out / "README.md").read_text()
    assert "trained on images under this licence: MIT &lt;b>$x&lt;/b>.\n" in card
    assert "`sample/image.png` is one of these images." in card
    assert "same class as PyTorch for 99.98 % of 10,000 images" in card


def test_an_empty_folder_is_taken(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert (make_bundle(tiny, tmp_path / "empty") / "model.so").exists()


def test_a_bundle_is_replaced_only_when_asked(bundle: Path, tiny: Tiny) -> None:
    before = contents(bundle)
    with pytest.raises(BundleError, match=r"there is a bundle in .* already"):
        make_bundle(tiny, bundle)
    assert contents(bundle) == before
    make_bundle(tiny, bundle, replace=True, labels=None)
    assert "labels.txt" not in contents(bundle)
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_folder_with_other_files_is_never_replaced(bundle: Path, tiny: Tiny) -> None:
    (bundle / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match=r"holds something else .*'thesis.tex' is not listed"):
        make_bundle(tiny, bundle, replace=True)
    other = bundle.parent / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match=r"holds something else .*no manifest.json"):
        make_bundle(tiny, other, replace=True)
    assert (other / "thesis.tex").exists()
    assert (bundle / "thesis.tex").exists()


def test_files_and_links_are_not_folders(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="is a file, not a folder"):
        make_bundle(tiny, tmp_path / "file", replace=True)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="is a symbolic link"):
        make_bundle(tiny, tmp_path / "link", replace=True)


@pytest.mark.parametrize("out", ["/proc/bundle", "/dev/null/bundle", "/sys/kernel/x/bundle"])
def test_where_nothing_can_be_written_it_says_so(tiny: Tiny, out: str) -> None:
    with pytest.raises(BundleError, match="cannot write the bundle"):
        make_bundle(tiny, Path(out))


@pytest.mark.parametrize("failing", range(1, 12))
def test_a_full_disk_leaves_the_old_bundle_and_nothing_else(
    bundle: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    before = contents(bundle)
    calls = 0
    real = os.fsync

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    # Nine files and two folders are flushed before the change of place.
    with pytest.raises(OfatvmError, match="no space left on the disk"):
        make_bundle(tiny, bundle, replace=True, **OTHER)
    assert contents(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_when_the_change_of_place_fails_the_old_bundle_is_back(
    bundle: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(bundle)
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr("ofatvm.bundle.write.exchange", lambda one, other: False)
    with pytest.raises(BundleError, match=r"cannot write the bundle .*Input/output error"):
        make_bundle(tiny, bundle, replace=True, labels=None)
    assert contents(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("can", [True, False])
def test_a_replaced_bundle_is_whole_at_every_moment(
    bundle: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, can: bool
) -> None:
    before, seen = contents(bundle), list[bool]()
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        seen.append(bundle.is_dir())
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    if not can:
        monkeypatch.setattr("ofatvm.bundle.write.exchange", lambda one, other: False)
    make_bundle(tiny, bundle, replace=True, labels=None)
    assert contents(bundle) != before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    # Where two names cannot be exchanged, there is no bundle for a moment.
    assert seen == ([] if can else [True, False])


def test_what_killed_writers_left_goes_with_the_next_bundle(bundle: Path, tiny: Tiny) -> None:
    dead = bundle.with_name(f".{bundle.name}.999999999.partial")
    other = bundle.with_name(".elsewhere.999999999.partial")
    living = bundle.with_name(f".{bundle.name}.1.partial")
    for folder in (dead, other, living):
        (folder / "sample").mkdir(parents=True)
    make_bundle(tiny, bundle, replace=True, labels=None)
    assert {path.name for path in bundle.parent.iterdir()} == {
        *("bundle", other.name, living.name),
    }


def manifest(**changes: Any) -> dict[str, Any]:
    return {"manifest": make_manifest(**changes)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (manifest(macs=1), "macs 1, which should be 41476224"),
        (manifest(params=1), "params 1, which should be"),
        (manifest(resolution=224), "resolution 224, which should be 128"),
        (manifest(space="nonsense"), "unknown space"),
        (manifest(arch="mbv3w1.0/128/99"), "manifest.json: "),
        (manifest(target=Target(name="t", mtriple="aarch64-linux-gnu")), "the target is aarch64"),
        ({"sample_input": np.zeros((1, 3), np.float32)}, "input.npy has shape"),
        ({"sample_input": np.zeros((1, 3))}, "not an array of float32"),
        ({"sample_output": np.full((1, CLASSES), np.nan, np.float32)}, "not finite"),
        ({"labels": ["one"]}, "1 lines for 1000 classes"),
        ({"labels": ["two\nlines"] * CLASSES}, "one line of text"),
        ({"labels": [""] * CLASSES}, "one line of text"),
        ({"sample_image": b"GIF89a"}, "must be a PNG"),
    ],
)
def test_what_does_not_agree_is_not_written(
    tiny: Tiny, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        make_bundle(tiny, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_wrong_model_is_named(tiny: Tiny, tmp_path: Path) -> None:
    rest = {
        "manifest": make_manifest(),
        "sample_input": tiny.given,
        "sample_output": tiny.result,
    }
    with pytest.raises(MissingInputError, match="no compiled network"):
        write_bundle(tmp_path / "out", model=tmp_path / "none.so", **rest)
    (tmp_path / "text.so").write_text("not code")
    with pytest.raises(BundleError, match=r"text.so is not an ELF file"):
        write_bundle(tmp_path / "out", model=tmp_path / "text.so", **rest)

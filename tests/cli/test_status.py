"""Status says what a workspace holds, and what comes next."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ofatvm.report.outcome import KEY, keep_outcome
from ofatvm.report.started import unfinished
from ofatvm.store import Store
from tests.bundle.making import make_manifest
from tests.read_only import only_read
from tests.targets import parse_target

TARGET = parse_target("x86-64-v2")
Ofatvm = Callable[..., Any]


def test_status_of_nothing_makes_nothing(ofatvm: Ofatvm, tmp_path: Path) -> None:
    workspace = tmp_path / "none"
    answer = ofatvm("status", "--workspace", workspace)
    assert (answer.code, workspace.exists()) == (0, False)
    assert f"next: ofatvm search --target host --workspace {workspace}" in answer.out


def test_what_status_says_next_can_be_typed(ofatvm: Ofatvm, tmp_path: Path) -> None:
    data = ofatvm("status", "--workspace", tmp_path / "my files", "--json").json
    assert data["next"].endswith(f"--workspace '{tmp_path}/my files'")


def make_manifest_at(folder: Path, **fields: Any) -> Path:
    """A bundle as far as `status` looks into it."""
    folder.mkdir(parents=True)
    path = folder / "manifest.json"
    path.write_text(make_manifest(**fields).to_json())
    return path


def test_status_names_the_newest_bundle_and_none_that_is_half_moved(
    ofatvm: Ofatvm, tmp_path: Path
) -> None:
    for age, name in enumerate(["a", "b", ".b.partial.old"]):
        manifest = make_manifest_at(tmp_path / "bundles" / name)
        os.utime(manifest, (1e9 - age, 1e9 - age))
    data = ofatvm("status", "--workspace", tmp_path, "--json").json
    paths = [bundle["path"] for bundle in data["bundles"]]
    assert paths == [f"{tmp_path}/bundles/b", f"{tmp_path}/bundles/a"]
    assert data["next"] == f"ofatvm verify {tmp_path}/bundles/a"


def test_a_folder_that_goes_meanwhile_does_no_harm(
    ofatvm: Ofatvm, tmp_path: Path, monkeypatch: Any
) -> None:
    make_manifest_at(tmp_path / "bundles" / "a")
    (tmp_path / "scratch").mkdir()
    scandir = os.scandir

    def gone(path: Any = ".") -> Any:
        if Path(path).name == "scratch":
            Path(path).rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", gone)
    answer = ofatvm("status", "--workspace", tmp_path, "--json")
    assert answer.code == 0, answer
    assert [bundle["path"] for bundle in answer.json["bundles"]] == [f"{tmp_path}/bundles/a"]


def test_status_lists_bundles_that_are_there_and_can_be_read(
    ofatvm: Ofatvm, tmp_path: Path, outcome: Any
) -> None:
    workspace, elsewhere = tmp_path / "workspace", tmp_path / "elsewhere"
    with Store.open(workspace) as store:
        keep_outcome(store, "search-1", replace(outcome, bundle=str(elsewhere)))
        keep_outcome(store, "search-2", replace(outcome, bundle=str(tmp_path / "gone")))
        keep_outcome(store, "search-3", replace(outcome, bundle=str(elsewhere)))
    make_manifest_at(elsewhere)
    damaged = make_manifest_at(workspace / "bundles" / "damaged")
    damaged.write_text(damaged.read_text()[:-20])
    (workspace / "bundles" / "empty").mkdir()
    data = ofatvm("status", "--workspace", workspace, "--json").json
    assert [bundle["path"] for bundle in data["bundles"]] == [str(elsewhere)]
    shutil.rmtree(elsewhere)
    assert ofatvm("status", "--workspace", workspace, "--json").json["bundles"] == []


def test_status_says_the_ir_of_each_search_and_bundle(
    ofatvm: Ofatvm, tmp_path: Path, outcome: Any
) -> None:
    with Store.open(tmp_path) as store:
        keep_outcome(store, "search-a", replace(outcome, ir="relay"))
        store.put_state("search-b", KEY, {"of": "another ofatvm"})
    make_manifest_at(tmp_path / "bundles" / "plain")
    make_manifest_at(tmp_path / "bundles" / "other", ir="relay")
    data = ofatvm("status", "--workspace", tmp_path, "--json").json
    searches = [(row["search"], row["ir"], row["state"]) for row in data["searches"]]
    assert searches == [("search-a", "relay", "finished"), ("search-b", None, "unreadable")]
    irs = {Path(bundle["path"]).name: bundle["ir"] for bundle in data["bundles"]}
    assert irs == {"plain": "relax", "other": "relay"}
    lines = ofatvm("status", "--workspace", tmp_path).out.splitlines()
    assert any(line.split()[:2] == ["search-a", "relay"] for line in lines)
    assert any(line.split()[:2] == [str(tmp_path / "bundles" / "other"), "relay"] for line in lines)


def test_status_counts(ofatvm: Ofatvm, tmp_path: Path, make_measurement: Any) -> None:
    with Store.open(tmp_path) as store:
        store.add_measurement(make_measurement())
        store.add_measurement(make_measurement())
        store.put_state("search-1", "generation", 3)
    data = ofatvm("status", "--workspace", tmp_path, "--json").json
    assert data["measurements"][0]["count"] == 2
    assert data["runs"] == ["search-1"]
    assert data["bundles"] == []
    assert "search-1" in ofatvm("status", "--workspace", tmp_path).out


def test_status_points_at_the_bundle(ofatvm: Ofatvm, tmp_path: Path) -> None:
    make_manifest_at(tmp_path / "bundle")
    data = ofatvm("status", "--workspace", tmp_path, "--json").json
    assert data["next"] == f"ofatvm verify {tmp_path / 'bundle'}"


def test_status_of_a_corrupt_store_is_one_line(ofatvm: Ofatvm, tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"rubbish" * 1000)
    answer = ofatvm("status", "--workspace", tmp_path)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert "store.db is damaged" in answer.err


def test_an_unfinished_search_comes_next_unless_a_bundle_came_after_it(
    ofatvm: Ofatvm, tmp_path: Path, make_measurement: Any
) -> None:
    with (
        Store.open(tmp_path) as store,
        contextlib.suppress(KeyboardInterrupt),
        unfinished(store, "search-1", target=TARGET, ir="relay", words=("search", "--ir", "relay")),
    ):
        store.add_measurement(make_measurement(target=TARGET.fingerprint))
        raise KeyboardInterrupt
    [held] = ofatvm("status", "--workspace", tmp_path, "--json").json["measurements"]
    assert held["target_name"] == "x86-64-v2"
    manifest = make_manifest_at(tmp_path / "bundles" / "a")
    os.utime(manifest, (1e9, 1e9))
    assert ofatvm("status", "--workspace", tmp_path, "--json").json["next"] == (
        "ofatvm search --ir relay"
    )
    os.utime(manifest, (1e10, 1e10))
    assert ofatvm("status", "--workspace", tmp_path, "--json").json["next"] == (
        f"ofatvm verify {tmp_path}/bundles/a"
    )


def test_what_cannot_be_written_has_a_status(
    ofatvm: Ofatvm, shared_folder: Path, outcome: Any
) -> None:
    with Store.open(shared_folder) as store:
        keep_outcome(store, "search-1", outcome)
    with only_read(shared_folder):
        answer = ofatvm("status", "--workspace", shared_folder)
    assert (answer.code, answer.err) == (0, "")
    assert "search-1" in answer.out

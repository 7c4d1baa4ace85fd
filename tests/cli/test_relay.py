"""--ir: what is said without TVM 0.19, and what the Relay road does not do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ofatvm.cli.options import move_ir
from ofatvm.compiler import relay_env
from ofatvm.compiler.relay_env import relay_python, relay_versions

ARCH = "small28/20/32-32-32-32"


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which nobody said `make relay`."""
    monkeypatch.delenv(relay_env.VARIABLE, raising=False)
    monkeypatch.setattr(relay_env.sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(relay_env, "_SOURCES", tmp_path)
    monkeypatch.chdir(tmp_path)
    relay_versions.cache_clear()


@pytest.mark.parametrize(
    "command",
    [
        ["search", "--target", "host"],
        ["compile", "--arch", ARCH],
        ["profile", ARCH],
        ["tune", "--trials-per-workload", "1"],
    ],
)
def test_without_the_environment_one_line_names_the_command(
    ofatvm: Callable[..., Any], tmp_path: Path, nowhere: None, command: list[str]
) -> None:
    answer = ofatvm(command[0], "--ir", "relay", *command[1:], "--workspace", tmp_path / "w")
    assert answer.code == 5
    assert answer.err.count("\n") == 1
    assert "make relay" in answer.err
    assert not answer.out


def test_json_says_it_too(ofatvm: Callable[..., Any], tmp_path: Path, nowhere: None) -> None:
    answer = ofatvm("profile", "--ir", "relay", ARCH, "--json", "--workspace", tmp_path / "w")
    assert answer.code == 5
    assert "make relay" in json.dumps(answer.json)


def test_an_environment_that_is_named_must_be_there(
    ofatvm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(relay_env.VARIABLE, str(tmp_path / "python"))
    relay_versions.cache_clear()
    answer = ofatvm("profile", "--ir", "relay", ARCH, "--workspace", tmp_path / "w")
    assert answer.code == 5
    assert "OFATVM_RELAY_PYTHON names no interpreter" in answer.err


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("#!/bin/sh\nsleep 600\n", 0o755, "does not come to an end in 0.5 s"),
        ("#!/bin/sh\nexit 3\n", 0o755, "no interpreter that runs: it ends with 3"),
        ("\x7fELF", 0o755, "Exec format error"),
        ("#!/nowhere\n", 0o755, "No such file or directory"),
        ("#!/bin/sh\n", 0o644, "names no interpreter"),
        ("#!/bin/sh\n", 0o755, "lacks xtc-tvm-python-bindings"),
        (None, 0o755, "names no interpreter"),
    ],
)
def test_an_interpreter_that_is_none_is_told_in_one_line(
    ofatvm: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    content: str | None,
    mode: int,
    said: str,
) -> None:
    python = tmp_path / "bin" / "odd\npython"
    python.parent.mkdir()
    if content is None:
        python.mkdir()
    else:
        python.write_text(content)
    python.chmod(mode)
    monkeypatch.setenv(relay_env.VARIABLE, str(python))
    if "sleep" in str(content):
        monkeypatch.setattr(relay_env, "PROBE_S", 0.5)
    relay_versions.cache_clear()
    answer = ofatvm("profile", "--ir", "relay", ARCH, "--workspace", tmp_path / "w")
    assert answer.code == 5
    assert said in answer.err
    assert answer.err.count("\n") == 1


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Name an environment that says it has these packages."""
    python = tmp_path / "env" / "bin" / "python"
    packages = tmp_path / "env" / "lib" / "python3.11" / "site-packages"

    def make(**versions: str) -> None:
        python.parent.mkdir(parents=True)
        python.write_text("#!/bin/sh\n")
        python.chmod(0o755)
        for name, version in versions.items():
            folder = packages / f"{name.replace('-', '_')}-{version}.dist-info"
            folder.mkdir(parents=True)
            (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        monkeypatch.setenv(relay_env.VARIABLE, str(python))

    relay_versions.cache_clear()
    yield make
    relay_versions.cache_clear()


ALL = dict.fromkeys((*relay_env.PACKAGES, *relay_env.SUPPORT), "0.19.0")


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({}, "lacks xtc-tvm-python-bindings"),
        ({**ALL, "xtc-tvm-python-bindings": "0.20.0"}, "has TVM 0.20.0, --ir relay needs 0.19.x"),
        ({**ALL, "xtc-tvm-python-bindings": "0.18.9"}, "has TVM 0.18.9, --ir relay needs 0.19.x"),
        ({name: text for name, text in ALL.items() if name != "xgboost"}, "lacks xgboost"),
    ],
)
def test_an_environment_that_does_not_serve_says_why(
    ofatvm: Callable[..., Any],
    made_up: Callable[..., None],
    tmp_path: Path,
    versions: dict[str, str],
    said: str,
) -> None:
    made_up(**versions)
    answer = ofatvm("profile", "--ir", "relay", ARCH, "--workspace", tmp_path / "w")
    assert answer.code == 5
    assert said in answer.err
    assert answer.err.count("\n") == 1
    rows = {row["name"]: row for row in ofatvm("doctor", "--json").json["checks"]}
    assert said in rows["TVM 0.19 (Relay)"]["found"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target", "cuda", "-arch=sm_87"], "--ir relay compiles for CPUs alone"),
        (["--target", "visionfive-2"], "compiles for x86_64, aarch64, arm, not for riscv64"),
        (["--target", "llvm -mcpu=arm1176jzf-s"], "arm1176jzf-s has no instruction for that"),
        (["--target", "llvm -mcpu=cortex-a9"], "cortex-a9 has no instruction for that"),
        (["--device", "rpc://127.0.0.1:9190/pi"], "not over RPC"),
        (["--ir", "tir"], "tir"),
    ],
)
def test_what_the_relay_road_does_not_do(
    ofatvm: Callable[..., Any], tmp_path: Path, options: list[str], said: str
) -> None:
    answer = ofatvm("profile", ARCH, "--ir", "relay", *options, "--workspace", tmp_path / "w")
    assert answer.code == 2
    assert said in answer.err
    assert [line for line in answer.err.splitlines() if "error" in line] == [
        answer.err.splitlines()[-1]
    ]


def test_logs_are_imported_on_the_relay_road_alone(ofatvm: Callable[..., Any]) -> None:
    answer = ofatvm("tune", "--import-log", "theirs.log")
    assert answer.code == 2
    assert "--ir relay" in answer.err


def test_doctor_says_how_to_get_it(ofatvm: Callable[..., Any], nowhere: None) -> None:
    rows = {row["name"]: row for row in ofatvm("doctor", "--json").json["checks"]}
    row = rows["TVM 0.19 (Relay)"]
    assert row["status"] == "ok"
    assert row["found"].startswith("none")
    assert row["hint"] == "run `make relay`, once"


def test_the_option_may_stand_before_the_command() -> None:
    assert move_ir(["--ir", "relay", "search", "-q"]) == ["search", "--ir", "relay", "-q"]
    assert move_ir(["--ir=relay", "search"]) == ["search", "--ir=relay"]
    for words in (
        ["search", "--ir", "relay"],
        ["--ir"],
        ["--ir", "relay"],
        ["--ir", "x", "--json"],
    ):
        assert move_ir(words) == words


@pytest.mark.relay
def test_the_environment_is_found_and_doctor_shows_it(ofatvm: Callable[..., Any]) -> None:
    relay_versions.cache_clear()
    assert relay_python().is_file()
    rows = {row["name"]: row for row in ofatvm("doctor", "--json").json["checks"]}
    assert "xtc-tvm-python-bindings 0.19.0.12" in rows["TVM 0.19 (Relay)"]["found"]


@pytest.mark.relay
@pytest.mark.timeout(900)
def test_tune_compile_verify_and_go_on(
    ofatvm: Callable[..., Any], own_lock: None, tmp_path: Path
) -> None:
    logs, work, out = tmp_path / "logs", tmp_path / "work", tmp_path / "bundle"
    common = ("--target", "host", "--ir", "relay", "--tuning-logs", logs, "--workspace", work)
    tune = ("tune", *common, "--time-budget", "5s", "--resolution", 20, "--json")
    first = ofatvm(*tune)
    assert first.code == 0, first.err
    assert 0 < first.json["new_trials"] == first.json["trials"]
    (log,) = logs.glob("*/relay/autotvm.log")
    assert len(log.read_text().splitlines()) == first.json["trials"]
    second = ofatvm(*tune)
    assert second.json["trials"] == first.json["trials"] + second.json["new_trials"]
    other = tmp_path / "other"
    imported = ofatvm(*tune[:6], other, *tune[7:9], "--import-log", log, "--time-budget", "1s")
    assert imported.code == 0, imported.err
    assert "trials of" in imported.err
    shipped = ofatvm("compile", *common, "--arch", ARCH, "--out", out, "--json")
    assert shipped.code == 0, shipped.err
    assert shipped.json["latency_kind"] == "measured"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["ir"] == "relay"
    assert "apache-tvm" not in manifest["versions"]
    assert manifest["versions"]["xtc-tvm-python-bindings"] == "0.19.0.12"
    assert 0 < manifest["coverage"] <= 1
    verified = ofatvm("verify", out, "--json")
    assert verified.code == 0, verified.err
    assert verified.json["ran"]
    assert verified.json["max_error"] < 1e-3


@pytest.mark.relay
@pytest.mark.qemu
@pytest.mark.timeout(600)
def test_a_log_of_a_board_is_imported_where_the_board_is_not(
    ofatvm: Callable[..., Any], tmp_path: Path
) -> None:
    tensors = [["TENSOR", [1, 64, 4, 4], "float32"], ["TENSOR", [256, 64, 1, 1], "float32"]]
    rest = [[1, 1], [0, 0, 0, 0], [1, 1], "NCHW", "NCHW", "float32"]
    tiles = [["tile_ic", "sp", [-1, 4]], ["tile_oc", "sp", [-1, 4]], ["tile_ow", "sp", [-1, 4]]]
    trial = {
        "input": ["llvm -mcpu=cortex-a72", "conv2d_NCHWc.x86", [*tensors, *rest], {}],
        "config": {"index": 3, "code_hash": None, "entity": [*tiles, ["tile_oh", "ot", 1]]},
        "result": [[1.3e-05], 0, 1.3e-05, 1795694837.6],
    }
    log = tmp_path / "theirs.log"
    log.write_text(json.dumps(trial) + "\n")
    logs = ("--tuning-logs", tmp_path / "logs", "--workspace", tmp_path / "work")
    tune = ("tune", "--ir", "relay", "--target", "llvm -mcpu=cortex-a72", *logs)
    taken = ofatvm(*tune, "--import-log", log, "--json")
    assert taken.code == 0, taken.err
    assert (taken.json["trials"], taken.json["new_trials"]) == (1, 0)
    assert "imported trials are measured" in taken.err
    mixed = ofatvm(*tune, "--time-budget", "1s")
    assert mixed.code == 2
    assert "simulated" in mixed.err


@pytest.mark.relay
@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", ["host", "llvm -mcpu=cortex-a72"])
def test_search_ends_in_a_verified_bundle(
    ofatvm: Callable[..., Any], own_lock: None, tmp_path: Path, target: str
) -> None:
    out, work = tmp_path / "bundle", tmp_path / "work"
    common = ("--ir", "relay", "--target", target, "--workspace", work)
    found = ofatvm("search", *common, "--resolution", 20, "--macs", "2M", "--out", out, "--json")
    assert found.code == 0, found.err
    kind = "measured" if target == "host" else "simulated"
    assert {point["latency_kind"] for point in found.json["front"]} == {kind}
    assert found.json["ir"] == "relay"
    verified = ofatvm("verify", out, "--json")
    assert verified.code == 0, verified.err
    assert verified.json["max_error"] < 1e-3

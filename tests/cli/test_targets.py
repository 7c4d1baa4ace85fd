"""`ofatvm targets`: what is known, one in full, this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ofatvm.cli import targets
from ofatvm.paths import checkout
from ofatvm.pipeline.setup import resolve_target
from ofatvm.target import shipped
from tests.targets import parse_target

Ofatvm = Callable[..., Any]
ARCH = "mbv3w1.0/224/33.33-33.33-33.33-33.33-33.33"


def test_the_list(ofatvm: Ofatvm) -> None:
    answer = ofatvm("targets", "--json")
    assert answer.code == 0
    rows = {row["name"]: row for row in answer.json["targets"]}
    assert {"x86-64-v2", "x86-64-v3", "x86-64-v4"} <= set(rows)
    assert rows["x86-64-v3"]["fingerprint"] == parse_target("x86-64-v3").fingerprint
    assert ofatvm("targets", "list", "--json").json == answer.json
    text = ofatvm("targets").out
    assert all(name in text for name in rows)
    assert "ofatvm targets detect" in text


def test_the_roads_that_a_target_is_tuned_on_are_seen(
    ofatvm: Ofatvm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(file: str, content: str = "{}") -> None:
        path = tmp_path / "shipped" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(targets, "data_dir", lambda kind: tmp_path / "shipped")
    put("cortex-a72/trials.jsonl")
    put("cortex-a72/relay/autotvm.log")
    put("cortex-a53/trials.jsonl", "")
    put("cortex-a53/relay/target.json")
    put("cortex-a76/relay/autotvm.log")
    (tmp_path / "tuning_logs" / "x86-64-v2").mkdir(parents=True)
    (tmp_path / "tuning_logs" / "x86-64-v2" / "trials.jsonl").write_text("{}")
    rows = ofatvm("targets", "--json").json["targets"]
    assert {row["name"]: row["records"] for row in rows if row["records"]} == {
        "raspberry-pi-4": {"relax": ["cortex-a72"], "relay": ["cortex-a72"]},
        "raspberry-pi-5": {"relay": ["cortex-a76"]},
        "x86-64-v2": {"relax": ["x86-64-v2"]},
    }
    lines = {line.split()[0]: line for line in ofatvm("targets").out.splitlines() if line}
    assert "  relax, relay  " in lines["raspberry-pi-4"]
    assert "relax" not in lines["raspberry-pi-5"]
    assert not {"relax", "relay"} & set(lines["raspberry-pi-3"].split())
    shown = ofatvm("targets", "show", "raspberry-pi-4")
    assert "relax: cortex-a72; relay: cortex-a72" in shown.out


def test_a_family_s_records_for_other_vectors_are_not_named(ofatvm: Ofatvm) -> None:
    records = ofatvm("targets", "show", "llvm -mcpu=skylake-avx512", "--json").json["target"][
        "records"
    ]
    assert records["relax"] == ["x86-64-v4"]
    records = ofatvm("targets", "show", "llvm -mcpu=znver3", "--json").json["target"]["records"]
    assert records == {"relax": ["x86-64-v3"], "relay": ["x86-64-v3"]}


def test_one_in_full(ofatvm: Ofatvm) -> None:
    target = ofatvm("targets", "show", "x86-64-v4", "--json").json["target"]
    assert target["tvm"] == {
        "kind": "llvm",
        "mcpu": "x86-64-v4",
        "mattr": ["-prefer-256-bit"],
        "num-cores": 2,
    }
    assert target["fingerprint"] == parse_target("x86-64-v4").fingerprint
    text = ofatvm("targets", "show", "x86-64-v4").out
    assert target["fingerprint"] in text
    assert "-prefer-256-bit" in text


def test_a_string_is_shown_too(ofatvm: Ofatvm) -> None:
    text = "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72 -num-cores=4"
    answer = ofatvm("targets", "show", text, "--json")
    assert answer.code == 0
    assert answer.json["target"]["tvm"]["mcpu"] == "cortex-a72"
    assert set(answer.json["target"]["records"]["relax"]) <= {"cortex-a72"}


def test_the_triple_of_a_foreign_cpu_is_filled_in(ofatvm: Ofatvm) -> None:
    answer = ofatvm("targets", "show", "llvm -mcpu=cortex-a72", "--json")
    assert answer.code == 0
    assert answer.json["target"]["mtriple"] == "aarch64-linux-gnu"
    assert answer.json["target"]["tvm"]["mtriple"] == "aarch64-linux-gnu"


@pytest.mark.parametrize(
    "words",
    [
        ("llvm", "-mcpu=cortex-a72"),
        ("llvm", "-mcpu", "cortex-a72", "-num-cores", "4"),
        ("-mcpu=cortex-a72", "-mattr", "-sve,+neon"),
        ("raspberry-pi/4b-aarch64",),
        ('{"tag": "raspberry-pi/4b-aarch64"}',),
        ("raspberry-pi-4",),
    ],
)
def test_a_target_is_shown_however_it_is_typed(ofatvm: Ofatvm, words: tuple[str, ...]) -> None:
    answer = ofatvm("targets", "show", *words, "--json")
    assert answer.code == 0
    assert answer.json["target"]["fingerprint"] == parse_target("raspberry-pi-4").fingerprint
    assert answer.json["target"]["machine"] == "cortex-a72"


def test_what_was_filled_in_is_shown(ofatvm: Ofatvm) -> None:
    text = ofatvm("targets", "show", "llvm", "-mcpu=cortex-a72").out
    assert "num-cores 4, as on raspberry-pi-4" in text
    assert "mtriple aarch64-linux-gnu, as cortex-a72 is such a CPU" in text
    assert "filled in" not in ofatvm("targets", "show", "raspberry-pi-4").out


def test_a_jetson_keeps_its_cpu_whatever_else_is_said_of_it(ofatvm: Ofatvm) -> None:
    words = ("targets", "show", "cuda", "-arch=sm_87", "-num-cores=4")
    answer = ofatvm(*words, "--json").json["target"]
    host = answer["tvm"]["host"]
    assert (host["mcpu"], host["mtriple"]) == ("cortex-a78", "aarch64-linux-gnu")
    assert host["num-cores"] == answer["threads"] == 4
    assert "host mcpu cortex-a78, as on Jetsons with sm_87" in ofatvm(*words).out


@pytest.mark.parametrize(
    ("text", "threads"),
    [
        ('mcpu = "cortex-a72"\nthreads = 2\n', 2),
        ('kind = "cuda"\narch = "sm_87"\nthreads = 4\n', 4),
    ],
)
def test_threads_may_be_given_without_cores(
    ofatvm: Ofatvm, tmp_path: Path, text: str, threads: int
) -> None:
    (tmp_path / "board.toml").write_text(text)
    answer = ofatvm("targets", "show", tmp_path / "board.toml", "--json")
    assert answer.json["target"]["threads"] == threads
    (tmp_path / "board.toml").write_text(text.replace(f"= {threads}", "= 100"))
    answer = ofatvm("targets", "show", tmp_path / "board.toml")
    assert answer.code == 2
    assert "100 threads on a target of" in answer.err


@pytest.mark.parametrize(
    "text",
    [
        "llvm -device=arm_cpu -keys=arm_cpu,cpu -mtriple=aarch64-linux-gnu -mattr=+neon",
        "riscv/licheepi3a",
        '{"kind":"cuda","arch":"sm_87","host":{"tag":"raspberry-pi/4b-aarch64"}}',
    ],
)
def test_what_tvm_itself_writes_is_taken(ofatvm: Ofatvm, text: str) -> None:
    assert ofatvm("targets", "show", text).code == 0


def test_a_gpu_is_shown_with_its_host(ofatvm: Ofatvm) -> None:
    answer = ofatvm("targets", "show", "cuda", "-arch=sm_87", "--json")
    assert answer.json["target"]["tvm"]["host"]["mcpu"] == "cortex-a78"
    assert "kind llvm" in ofatvm("targets", "show", "cuda", "-arch=sm_87").out


def test_every_shipped_target_passes_the_check(ofatvm: Ofatvm) -> None:
    answer = ofatvm("targets", "check", "--json")
    assert answer.code == 0
    rows = answer.json["targets"]
    assert [row["name"] for row in rows] == list(shipped())
    assert {row["result"] for row in rows} == {"ok"}
    for row in rows:
        assert row["object_bytes"] > 0
        assert ("vector_unit" in row) == (row["kind"] == "llvm")


def test_a_wrong_target_fails_the_check_and_the_others_are_still_checked(ofatvm: Ofatvm) -> None:
    words = ("-mcpu=cortex-a27", "x86-64-v3", "llvm", "-mcpu", "cortex-a76", "-mattr", "-crc")
    answer = ofatvm("targets", "check", *words, "no/such.toml", "--json")
    assert answer.code == 2
    assert answer.json["ok"] is False
    rows = answer.json["targets"]
    given = ["llvm -mcpu=cortex-a27", "x86-64-v3", "llvm -mcpu cortex-a76 -mattr -crc"]
    assert [row["given"] for row in rows] == [*given, "no/such.toml"]
    assert [row["result"] == "ok" for row in rows] == [False, True, True, False]
    assert rows[0]["hint"] == "the nearest name is cortex-a7"
    answer = ofatvm("targets", "check", "-mcpu=cortex-a27")
    assert answer.code == 2
    assert "LLVM knows no CPU 'cortex-a27'" in answer.out
    assert len(answer.err.splitlines()) == 1


def test_text_fits_80_columns() -> None:
    for result in (targets.listing(), targets.show(resolve_target("raspberry-pi-4"))):
        assert max(map(len, result.text(80).splitlines())) <= 80
    assert max(map(len, targets.check(["x86-64-v4"]).text(80).splitlines())) <= 80


@pytest.mark.parametrize(
    "words",
    [
        ["targets", "show", "llvm", "-mtriple=armv99-nonsense", "-mcpu=x"],
        ["targets", "show", "llvm", "-mcpu=x86-64-v3", "-mattr=-64bit-mode,+foo"],
        ["describe", "--target", "llvm", "-mcpu=pentium", ARCH],
        ["targets", "show", "bad.toml"],
    ],
)
def test_a_wrong_target_is_one_line_of_the_real_command(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("mcpu = 'x'\n[machine]\nmodel = 3\n")
    done = subprocess.run(
        [sys.executable, "-m", "ofatvm", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(checkout())},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


def test_this_machine(ofatvm: Ofatvm) -> None:
    answer = ofatvm("targets", "detect", "--json")
    assert answer.code == 0
    target = answer.json["target"]
    assert target["mcpu"]
    assert target["num_cores"] == len(os.sched_getaffinity(0))
    assert ofatvm("targets", "show", "host", "--json").json == answer.json


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("show",), "targets show needs a name"),
        (("show", "nonsense"), "unknown target 'nonsense'"),
        (("show", ""), "the target is empty"),
        (("show", "llvm -mcpu=znver99"), "LLVM knows no CPU 'znver99'"),
        (("show", "{}"), None),
        (("show", "llvm", "-mcpu=cortex-a27"), "the nearest name is cortex-a7"),
        (("show", "llvm", "-mcpu=CORTEX-A72"), "the nearest name is cortex-a72"),
        (("show", "llvm", "-mcpu=native"), "this machine's CPU is --target host"),
        (("show", "llvm -mtriple=x86_64-linux-gnu -mcpu=cortex-a72"), "it needs -mtriple=aarch64"),
        (("show", "llvm", "-mcp=x"), "cannot read '-mcp=x'"),
        (("show", "llvm", "-mcpu=sm_87"), "a GPU is cuda -arch=sm_87"),
        (("show", "llvm", "-mcpu=bcm2711"), "`ofatvm targets list` shows boards and their CPUs"),
        (
            ("show", "llvm", "-mcpu=cortex-a72", "-mattr=+avx2"),
            "'+avx2' is an attribute of x86_64-linux-gnu, not of aarch64-linux-gnu",
        ),
        (("show", "cuda", "-arch=sm_35"), "the oldest is sm_50"),
        (("show", "cuda", "-arch=sm_999"), "the newest is sm_"),
        (("show", '{"kind": "llvm", "kind": "cuda"}'), "'kind' is given twice"),
        (("show", "cuda"), "needs the GPU's architecture"),
        (("show", "nvidia/jetson"), "no file and no TVM target tag"),
        (("list", "x86-64-v3"), "targets list takes no name"),
        (("detect", "host"), "targets detect takes no name"),
        (("frobnicate",), "frobnicate"),
        (("show", "a", "b"), "targets show takes one target, got 'b' as well"),
    ],
)
def test_bad_words_are_exit_2(ofatvm: Ofatvm, words: tuple[str, ...], line: str | None) -> None:
    answer = ofatvm("targets", *words)
    if line is None:
        assert answer.code == 0
        return
    assert (answer.code, answer.out) == (2, "")
    assert line in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_missing_file_is_exit_5(ofatvm: Ofatvm) -> None:
    assert ofatvm("targets", "show", "no/such.toml").code == 5


def test_a_check_of_what_has_no_hint_keeps_its_table(ofatvm: Ofatvm) -> None:
    answer = ofatvm("targets", "check", "x86-64-v2", "llvm -num-cores=0", "--json")
    assert answer.code == 2
    good, bad = answer.json["targets"]
    assert good["result"] == "ok"
    assert "num-cores must be" in bad["result"]


def test_a_target_file_may_begin_with_a_byte_order_mark(ofatvm: Ofatvm, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbfmcpu = 'x86-64-v2'\n")
    assert ofatvm("targets", "show", tmp_path / "mine.toml", "--json").json["target"]["name"] == (
        "mine"
    )

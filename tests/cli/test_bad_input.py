"""Whatever is wrong with the input: the right exit code, one line, and with --json one object."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ARCH = "mbv3w1.0/128/33.33-33.33-33.33-33.33-33.33"
OFA = {"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": 128}
Words = tuple[object, ...]


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, ("touch exploded",)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of everything that is wrong."""
    import torch

    folder = tmp_path_factory.mktemp("wrong")
    (folder / "file").write_text("not a folder")
    (folder / "empty").touch()
    (folder / "folder").mkdir()
    (folder / "bomb.pth").write_bytes(pickle.dumps({"state_dict": Bomb()}))
    torch.save({"a": torch.zeros(3)}, folder / "whole.pth")
    (folder / "cut.pth").write_bytes((folder / "whole.pth").read_bytes()[:-200])
    (folder / "text.pth").write_text("<html>not found</html>")
    (folder / "latin.txt").write_bytes(ARCH.encode() + b"\n\xe9t\xe9\n")
    (folder / "third.txt").write_text(f"# mine\n{ARCH}\n{ARCH}x\n{ARCH}\n")
    (folder / "two.txt").write_text(f"{ARCH}\n{ARCH}\n")
    (folder / "nested.toml").write_text(f"kind = 'llvm'\n[{'.'.join(['host'] * 2000)}]\n")
    (folder / "comments.txt").write_text("# nothing\n\n")
    (folder / "bad.toml").write_text("kind = ")
    (folder / "odd.toml").write_text("kind = 'llvm'\nmcu = 'x'\n")
    (folder / "corrupt").mkdir()
    (folder / "corrupt" / "store.db").write_bytes(b"SQLite format 3\0" + b"\xa5" * 9000)
    (folder / "noise").mkdir()
    (folder / "noise" / "store.db").write_bytes(os.urandom(5000))
    (folder / "isfolder" / "store.db").mkdir(parents=True)
    (folder / "foreign").mkdir()
    with sqlite3.connect(folder / "foreign" / "store.db") as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    for name, text in (("damaged", "{"), ("other", '{"target": {"kind": "llvm", "mcpu": "z"}}')):
        logs = folder / name / "x86-64-v2"
        logs.mkdir(parents=True)
        (logs / "trials.jsonl").write_text("garbage\n")
        (logs / "target.json").write_text(text)
    for name in ("trials.jsonl", "target.json", "sessions.jsonl"):
        logs = folder / f"pipe-{name}" / "x86-64-v2"
        logs.mkdir(parents=True)
        (logs / "trials.jsonl").touch()
        (logs / name).unlink(missing_ok=True)
        os.mkfifo(logs / name)
    (folder / "supernet").mkdir()
    (folder / "supernet" / "supernet.json").write_text('{"schema": 1}')
    (folder / "bundle").mkdir()
    (folder / "bundle" / "manifest.json").write_bytes(b"\xff\xfe")
    return folder


# What is typed, the exit code, and what the line says. {} is the folder of wrong things.
CASES: list[tuple[Words, int, str]] = []


def cases(code: int, *entries: tuple[Words, str]) -> None:
    CASES.extend((words, code, said) for words, said in entries)


def describe(text: object, *more: object) -> Words:
    return ("describe", "--target", "x86-64-v2", *more, "--", text)


def search(*words: object) -> Words:
    return ("search", "--target", "x86-64-v2", *words)


def compiled(*words: object) -> Words:
    return ("compile", "--target", "x86-64-v2", "--arch", ARCH, *words)


def target(text: object) -> Words:
    return ("describe", ARCH, "--target", text)


cases(
    2,
    (("nonsense",), "nonsense"),
    (("describe", "--nonsense"), "nonsense"),
    (("compile",), "--arch"),
    (("describe",), "no architecture given"),
    (target(""), "empty"),
    (target("  "), "empty"),
    (target("pdp11"), "unknown target"),
    (target("llvm -mcpu=pdp11"), "pdp11"),
    (target("llvm -mcpu="), "cannot read"),
    (target("llvm -mattr=+warp"), "warp"),
    (target("llvm -mtriple=pdp11-unknown"), "pdp11"),
    (target("llvm -mcpu=a -mcpu=b"), "twice"),
    (target("llvm -num-cores=0"), "num-cores"),
    (target("llvm -num-cores=99999"), "num-cores"),
    (target("cuda"), "cuda"),
    (target("fpga"), "unknown target"),
    (target("{"), "JSON"),
    (target('{"kind": "llvm", "mcpu": 5}'), "mcpu"),
    (target('{"kind": "llvm", "color": "red"}'), "color"),
    (target('{"kind": "llvm", "mattr": "avx"}'), "mattr"),
    (target("[" * 5000), "unknown target"),
    (target("{}/nested.toml"), "no host of its own"),
    (target("llvm -mcpu=native"), "no CPU 'native'"),
    (target("llvm -mcpu=CORTEX-A72"), "no CPU 'CORTEX-A72'"),
    (target("llvm -mcpu=cörtex"), "mcpu holds an unexpected character"),
    (target("raspberry-pi-4 -num-cores=2"), "takes no options, got '-num-cores=2'"),
    (target("llvm -mtriple=x86_64-linux-gnu -mcpu=cortex-a72"), "no CPU of x86_64-linux-gnu"),
    (("describe", ARCH, "-mcpu=cortex-a72", "--target", "llvm"), "-mcpu=cortex-a72 is an option"),
    (("describe", ARCH, "--target", "llvm", "--threads", "1", "-mcpu=a"), "-mcpu=a is an option"),
    (("describe", ARCH, "--tuning-logs", "{}/file"), "is no folder"),
    (target('{"kind":' * 5000), "JSON"),
    (target("{}/bad.toml"), "TOML"),
    (target("{}/odd.toml"), "mcu"),
    (("describe", ARCH, "--target", "x86-64-v2", "--threads", 1000), "threads"),
    (("describe", ARCH, "--target", "x86-64-v2", "--threads", 0), "threads"),
    (("describe", ARCH, "--target", "x86-64-v2", "--threads", "two"), "threads"),
    (("tune", "--target", ""), "--target is empty"),
    (("search", "--supernet", ""), "--supernet is empty"),
    (("search", "--device", " "), "--device is empty"),
    (("search", "--latency-ms", ""), "--latency-ms is empty"),
    (("train", "--data", "", "--out", "{}/new"), "--data is empty"),
    (("compile", "--arch", ARCH, "--out="), "--out is empty"),
    (("tune", "--trials-per-workload", "0"), "trials"),
    (("tune", "--time-budget", "5"), "time"),
    (("tune", "--time-budget", "-5m"), "time"),
    (("tune", "--resolution", "131"), "131"),
    (("profile", "--count", "0"), "count"),
    (("profile", "--seed", "-1"), "seed"),
    (("profile", "--count", "1e3"), "count"),
    (("evaluate", "--count", "10000000"), "1 to 10000"),
    (search("--latency-ms", "1" * 20_000 + "x"), "latency-ms"),
    (search("--latency-ms", "1" * 100_000), "latency-ms"),
    (("tune", "--time-budget", "1" * 20_000 + "x"), "time"),
    (("tune", "--time-budget", "1h" * 20_000), "time"),
    *(
        (search(option, value), option)
        for option in ("--latency-ms", "--macs", "--size-mb", "--peak-memory-mb", "--min-accuracy")
        for value in ("-1", "0", "nan", "inf", "-inf", "1e999", "1e300", "ten", "", "0x10")
    ),
    (search("--min-accuracy", "100.1"), "at most 100"),
    (search("--device", "toaster"), "toaster"),
    (search("--seed", "1.5"), "seed"),
)
cases(
    2,
    (describe("garbage"), "not an architecture"),
    (describe(""), "not an architecture"),
    (describe("mbv3w1.0"), "not an architecture"),
    (describe("mbv3w1.0/128"), "not an architecture"),
    (describe(ARCH.replace("mbv3w1.0", "resnet")), "resnet"),
    (describe(ARCH.replace("mbv3w1.0", "mbv3w1.2"), "--space", "mbv3w1.0"), "mbv3w1.2"),
    (describe(ARCH.replace("/128/", "/127/")), "127"),
    (describe(ARCH.replace("/128/", "/99999/")), "99999"),
    (describe(ARCH.replace("/128/", "/١٢٨/")), "not an architecture"),
    (describe(ARCH.replace("33.33", "43.33", 1)), "kernel size"),
    (describe(ARCH.replace("33.33", "35.33", 1)), "expand ratio"),
    (describe(ARCH.replace("33.33", "33", 1)), "stage 1"),
    (describe(ARCH.replace("33.33", "33.33.33.33.33", 1)), "stage 1"),
    (describe(ARCH.replace("33.33", "333.33", 1)), "stage 1"),
    (describe(ARCH + "-33.33"), "stages"),
    (describe(ARCH.rpartition("-")[0]), "stages"),
    (describe(ARCH + "\0"), "not an architecture"),
    (describe(ARCH + "9" * 5000), "stage 5"),
    (describe("x" * 5000), "not an architecture"),
    (describe(ARCH, "--space", "resnet50"), "unknown space"),
    (describe(ARCH, "--space", ""), "--space is empty"),
    (describe(ARCH, "--space", "mbv3w1.2"), "space"),
    (describe(ARCH, "--resolution", "131"), "131"),
    (describe(ARCH, "--resolution", "0"), "resolution"),
    (describe("{"), "JSON"),
    (describe("{}"), "missing"),
    (describe('{"a":' * 5000), "JSON"),
    *(
        (describe(json.dumps(OFA | change)), said)
        for change, said in (
            ({"ks": [3] * 19}, "kernel sizes"),
            ({"ks": [4] * 20}, "kernel size"),
            ({"ks": "3" * 20}, "lists"),
            ({"ks": [3.0] * 20}, "lists"),
            ({"ks": [True] * 20}, "lists"),
            ({"ks": None}, "lists"),
            ({"e": [5] * 20}, "expand ratio"),
            ({"e": [[3]] * 20}, "lists"),
            ({"d": [5] * 5}, "depth"),
            ({"d": [2] * 4}, "depths"),
            ({"d": [-1] * 5}, "depth"),
            ({"d": [10**30] * 5}, "lists"),
            ({"r": 127}, "127"),
            ({"r": "128"}, "lists"),
            ({"r": [128, 160]}, "lists"),
            ({"r": -(10**25)}, "lists"),
            ({"wid": 1.2}, "wid"),
            ({"color": 1}, "color"),
        )
    ),
    (describe("{}/latin.txt"), "UTF-8"),
    (describe("/proc/self/mem"), "cannot be read"),
    (describe("{}/empty"), "no architecture"),
    (describe("{}/comments.txt"), "no architecture"),
    (describe("{}/third.txt"), "third.txt, line 3"),
    (("profile", "--target", "x86-64-v2", "--file", "{}/third.txt"), "third.txt, line 3"),
    (("profile", "--target", "x86-64-v2", "--file", "{}/empty"), "no architecture"),
    (("compile", "--arch", "garbage"), "not an architecture"),
    (("compile", "--arch", "{}/two.txt"), "holds 2"),
    (("compile", "--arch", "{"), "JSON"),
)
cases(
    2,
    (search("--supernet", "x", "--weights", "{}/whole.pth"), "exclude each other"),
    (compiled("--supernet", "x", "--weights", "{}/whole.pth"), "exclude each other"),
    (search("--supernet", "{}/supernet"), "supernet.json is damaged"),
    (describe(ARCH, "--supernet", "{}/supernet"), "supernet.json is damaged"),
    (compiled("--weights", "{}/cut.pth"), "truncated or damaged"),
    (compiled("--weights", "{}/bomb.pth"), "refused"),
    (compiled("--weights", "{}/text.pth"), "not a weight file"),
    (compiled("--weights", "{}/empty"), "empty"),
    (compiled("--weights", "{}/whole.pth"), "does not fit"),
    (search("--weights", "{}/cut.pth"), "truncated or damaged"),
    (compiled("--out", "{}/file"), "is a file"),
    (compiled("--out", "{}/file/below"), "cannot write"),
    (compiled("--out", "/proc/ofatvm/bundle"), "cannot write"),
    (compiled("--out", "{}"), "something else"),
    (search("--out", "{}/file/below"), "cannot write"),
    (search("--out", "/proc/ofatvm/bundle"), "cannot write"),
    (search("--workspace", "{}/file"), "workspace"),
    (search("--workspace", "/proc/ofatvm"), "workspace"),
    (compiled("--workspace", "{}/file"), "workspace"),
    *(
        (("profile", "--target", "x86-64-v2", "--workspace", f"{{}}/{name}"), said)
        for name, said in (
            ("corrupt", "damaged"),
            ("noise", "damaged"),
            ("foreign", "another program"),
            ("isfolder", "store.db"),
        )
    ),
    (search("--workspace", "{}/corrupt"), "damaged"),
    (compiled("--workspace", "{}/noise"), "damaged"),
    (("status", "--workspace", "{}/corrupt"), "damaged"),
    (describe(ARCH, "--tuning-logs", "{}/damaged"), "target.json is damaged"),
    (("tune", "--target", "x86-64-v2", "--tuning-logs", "{}/file"), "file"),
    (("tune", "--target", "x86-64-v2", "--tuning-logs", "{}/damaged"), "target.json is damaged"),
    *(
        ((*words, "--target", "x86-64-v2", "--tuning-logs", f"{{}}/pipe-{name}"), "no ordinary")
        for words, name in (
            (("describe", ARCH), "target.json"),
            (("tune",), "trials.jsonl"),
            (("report", "--cost"), "sessions.jsonl"),
        )
    ),
    (("verify", "{}/bundle"), "manifest.json"),
    (("verify", "{}/folder"), "manifest.json"),
    (("verify", "{}/file"), "file"),
    (("profile", "--target", "llvm -mcpu=cortex-a72", "--device", "local"), "does not run"),
    (("profile", "--device", "board"), "no device"),
    (("search", "--device", "rpc://127.0.0.1/pi4"), "HOST:PORT"),
    (("tune", "--device", "rpc://192.0.2.1:9190/pi4"), "not this machine"),
)
cases(
    5,
    (compiled("--weights", "{}/none.pth"), "weight file"),
    (search("--weights", "{}/none.pth"), "weight file"),
    (search("--space", "mbv3w1.0", "--resolution", "128"), "accuracy model"),
    (search("--supernet", "nonsense"), "no supernet 'nonsense'"),
    (search("--supernet", "{}/folder"), "no trained supernet"),
    (compiled("--supernet", "../folder"), "no supernet"),
    (("describe", "--file", "{}/none.txt"), "none.txt"),
    (("profile", "--file", "{}/folder"), "folder"),
    (target("{}/none.toml"), "none.toml"),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(("words", "code", "said"), CASES)
@pytest.mark.usefixtures("place", "own_lock")
def test_bad_input_is_one_line(
    ofatvm: Callable[..., Any], files: Path, words: Words, code: int, said: str, as_json: bool
) -> None:
    typed = [str(word).replace("{}/", f"{files}/") for word in words]
    typed = [str(files) if word == "{}" and words[0] != "describe" else word for word in typed]
    answer = ofatvm(typed[0], *(["--json"] if as_json else []), "--quiet", *typed[1:])
    assert answer.code == code, answer
    assert "Traceback" not in answer.err
    lines = [line for line in answer.err.splitlines() if not line.startswith("warning: ")]
    if as_json:
        value = answer.json
        assert lines == []
        assert value["ok"] is False
        assert value["error"]["exit_code"] == code
        assert value["error"]["kind"] != "InternalError"
        message = value["error"]["message"]
    else:
        assert answer.out == ""
        assert len(lines) == 1, answer.err
        assert lines[0].startswith("error: ")
        message = lines[0]
    assert said in message
    assert not Path("exploded").exists()


@pytest.mark.usefixtures("place")
def test_records_of_another_target_are_a_warning_and_not_used(
    ofatvm: Callable[..., Any], files: Path
) -> None:
    words = ("describe", ARCH, "--target", "x86-64-v2", "--tuning-logs", files / "other")
    answer = ofatvm(*words, "--json")
    assert answer.code == 0
    assert "warning: " in answer.err
    assert "another target" in answer.err
    assert answer.json["coverage"] == 0


@pytest.mark.usefixtures("place")
def test_a_damaged_journal_is_a_warning_and_no_error(
    ofatvm: Callable[..., Any], tmp_path: Path
) -> None:
    logs = tmp_path / "logs" / "x86-64-v2"
    logs.mkdir(parents=True)
    (logs / "trials.jsonl").write_bytes(b"\xff\n[]\n{}\nhalf a li")
    answer = ofatvm("describe", ARCH, "--target", "x86-64-v2", "--tuning-logs", logs.parent)
    assert answer.code == 0
    assert "4 damaged tuning trials" in answer.err

"""`ofatvm verify`: exit codes, text and JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bundle.making import Tiny, compile_tiny, make_bundle, sign

Ofatvm = Callable[..., Any]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return compile_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def bundle(tiny: Tiny, tmp_path: Path) -> Path:
    return make_bundle(tiny, tmp_path / "bundle")


def test_a_sound_bundle(ofatvm: Ofatvm, bundle: Path) -> None:
    answer = ofatvm("verify", bundle, "--threads", 1)
    assert answer.code == 0
    assert answer.out.rstrip().endswith("verified")
    assert "untrained" in answer.out
    assert "max error" in answer.out
    assert "2.5 ms, measured on local" in answer.out
    answer = ofatvm("verify", bundle, "--json", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json["ran"] is True
    assert answer.json["latency"]["n"] == 50
    assert answer.json["latency"]["kind"] == "measured"
    assert answer.json["max_error"] <= 1e-3
    assert answer.json["manifest_accuracy"]["kind"] == "predicted"


def test_without_running(ofatvm: Ofatvm, bundle: Path) -> None:
    answer = ofatvm("verify", bundle, "--no-run")
    assert answer.code == 0
    assert "without running it" in answer.out
    answer = ofatvm("verify", bundle, "--no-run", "--json", "-q")
    assert (answer.json["ok"], answer.json["ran"], answer.json["latency"]) == (True, False, None)


def test_a_changed_file_is_exit_2(ofatvm: Ofatvm, bundle: Path) -> None:
    with (bundle / "model.so").open("r+b") as file:
        file.seek(1000)
        file.write(b"\x00\xff")
    answer = ofatvm("verify", bundle, "-q")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: model.so does not have the sha256")
    assert len(answer.err.splitlines()) == 1
    answer = ofatvm("verify", bundle, "--json", "-q")
    assert answer.code == 2
    assert answer.json["error"]["kind"] == "BundleError"


def test_a_missing_bundle_is_exit_5(ofatvm: Ofatvm, tmp_path: Path) -> None:
    answer = ofatvm("verify", tmp_path / "none", "-q")
    assert answer.code == 5
    assert "there is no bundle" in answer.err


def test_code_that_crashes_is_exit_1(ofatvm: Ofatvm, bundle: Path) -> None:
    data = bytearray((bundle / "model.so").read_bytes())
    data[0x1000:0x2000] = b"\xcc" * 0x1000
    sign(bundle, "model.so", bytes(data))
    answer = ofatvm("verify", bundle, "-q")
    assert answer.code == 1
    assert answer.err.startswith("error: model.so ")
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [(), ("a", "b"), ("a", "--threads", "0"), ("a", "--threads", "x"), ("a", "--timeout", "-1s")],
)
def test_bad_options_are_exit_2(ofatvm: Ofatvm, words: tuple[str, ...]) -> None:
    answer = ofatvm("verify", *words)
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1

"""Targets completed: one form for all spellings, what is filled in, and 1000 wrong ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from ofatvm.compiler.isa import GPU_ARCHITECTURES, TRIPLES, cpus_of, host_target, tvm_target
from ofatvm.compiler.probe import probe
from ofatvm.compiler.resolve import resolve
from ofatvm.errors import MissingInputError, OfatvmError, TargetError
from ofatvm.target import GPU_LIMITS, load_target, shipped

x86_only = pytest.mark.skipif(os.uname().machine != "x86_64", reason="triples of x86 machines")
A72 = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "num-cores": 4}


def test_the_missions_line_is_a_raspberry_pi_4() -> None:
    target = resolve("llvm -mcpu=cortex-a72")
    board = resolve("raspberry-pi-4")
    assert (target.name, target.to_dict()) == ("cortex-a72", A72)
    assert target.record_names == ("cortex-a72",)
    assert target.machine == board.machine
    assert target.machine is not None
    assert target.fingerprint == board.fingerprint
    assert board.record_names == ("raspberry-pi-4", "cortex-a72")
    assert [sentence.partition(",")[0] for sentence in target.filled] == [
        "mtriple aarch64-linux-gnu",
        "num-cores 4",
        "caches and clock for simulation",
    ]
    assert all("\n" not in sentence for sentence in target.filled)
    assert board.filled == ()


@pytest.mark.parametrize(
    "text",
    [
        "-mcpu=cortex-a72",
        "llvm -mcpu cortex-a72 -num-cores 4",
        "llvm -mcpu=cortex-a72 -mtriple=arm64-unknown-linux-gnu",
        "llvm -mcpu=cortex-a72 -mattr=+neon,+crc",
        "llvm -mcpu=cortex-a72 -mattr -sve,+neon",
        "raspberry-pi/4b-aarch64",
        "arm/rasp4b64",
        '{"tag": "raspberry-pi/4b-aarch64"}',
        '{"mcpu": "cortex-a72"}',
        json.dumps(A72 | {"mattr": ["+neon"], "keys": ["arm_cpu", "cpu"]}),
        "raspberry-pi-4",
        str(shipped()["raspberry-pi-4"]),
    ],
)
def test_every_way_to_write_a_target_is_the_same_target(text: str) -> None:
    target = resolve(text)
    assert target.to_dict() == A72
    assert "cortex-a72" in target.record_names
    assert target.machine == resolve("raspberry-pi-4").machine


def test_a_given_thing_is_kept() -> None:
    target = resolve("llvm -mcpu=cortex-a72 -num-cores=2 -mattr=-crc,+sve")
    assert (target.num_cores, target.mattr) == (2, ("+sve", "-crc"))
    assert not any("num-cores" in sentence for sentence in target.filled)


@pytest.mark.parametrize("name", list(shipped()))
def test_a_shipped_target_says_all_of_itself(name: str) -> None:
    target = resolve(name)
    assert target.filled == ()
    assert target.fingerprint == load_target(shipped()[name]).fingerprint
    assert probe(target).object_bytes > 0


def test_resolving_what_was_resolved_changes_nothing() -> None:
    for name in (*shipped(), "cuda -arch=sm_86", "llvm -mcpu=cortex-a7", "host"):
        target = resolve(name)
        again = resolve(json.dumps(target.to_dict()))
        assert again.fingerprint == target.fingerprint


def test_the_host_is_written_in_any_way() -> None:
    host = host_target()
    attributes = f" -mattr={','.join(host.mattr)}" if host.mattr else ""
    written = f"llvm -mcpu={host.mcpu}{attributes} -num-cores={host.num_cores}"
    assert resolve(written).fingerprint == resolve(" host ").fingerprint == host.fingerprint


@x86_only
def test_this_machines_triple_need_not_be_written() -> None:
    written = resolve("llvm -mtriple=x86_64-unknown-linux-gnu -mcpu=x86-64-v3")
    assert written.fingerprint == resolve("x86-64-v3").fingerprint
    assert written.name == "x86-64-v3"
    assert resolve("llvm -mtriple=x86_64-linux-gnu").to_dict() == resolve("llvm").to_dict()


@x86_only
def test_on_another_machine_every_target_is_the_same_but_x86_needs_its_triple(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tvm.target import codegen

    here = resolve("llvm -mcpu=cortex-a72")
    monkeypatch.setattr(codegen, "llvm_get_system_triple", lambda: "aarch64-unknown-linux-gnu")
    assert resolve("llvm -mcpu=cortex-a72").fingerprint == here.fingerprint
    assert resolve("x86-64-v3").mtriple == "x86_64-linux-gnu"
    assert resolve("llvm").mtriple == "aarch64-linux-gnu"
    monkeypatch.setattr(codegen, "llvm_get_system_cpu", lambda: "cortex-a72")
    assert host_target().mtriple == "aarch64-linux-gnu"


def test_cores_come_from_shipped_targets_that_agree() -> None:
    target = resolve("llvm -mcpu=cortex-a53")
    assert target.num_cores == 4
    said = "\n".join(target.filled)
    assert "as on raspberry-pi-3 (also of that CPU: raspberry-pi-zero-2)" in said
    assert target.machine == resolve("raspberry-pi-3").machine
    alone = resolve("llvm -mcpu=cortex-a35")
    assert (alone.num_cores, alone.machine) == (1, None)
    assert "num-cores 1, as none is given and no shipped target has that CPU" in alone.filled


def test_threads_of_a_file_stay_when_cores_are_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text('mcpu = "cortex-a72"\nthreads = 1\n')
    target = resolve(str(path))
    assert (target.name, target.num_cores, target.threads) == ("board", 4, 1)
    assert target.family == ("cortex-a72",)


@pytest.mark.parametrize(
    ("text", "triple", "abi"),
    [
        ("llvm -mcpu=cortex-a7", "armv7-linux-gnueabihf", "hard"),
        ("llvm -mcpu=cortex-a7 -mfloat-abi=soft", "armv7-linux-gnueabi", "soft"),
        ("llvm -mtriple=arm-linux-gnueabihf -mcpu=cortex-a7", "armv7-linux-gnueabihf", "hard"),
        ("llvm -mtriple=armv8l-linux-gnueabi -mcpu=cortex-a72", "armv7-linux-gnueabi", "soft"),
        ("llvm -mtriple=arm-linux-gnueabihf", "armv7-linux-gnueabihf", "hard"),
        ("llvm -mcpu=arm1176jzf-s", "arm-linux-gnueabihf", "hard"),
        ("llvm -mtriple=armv7-linux-gnueabihf -mcpu=arm1176jzf-s", "arm-linux-gnueabihf", "hard"),
    ],
)
def test_32_bit_arm_says_how_floats_are_passed(text: str, triple: str, abi: str) -> None:
    target = resolve(text)
    assert (target.mtriple, target.mfloat_abi) == (triple, abi)
    assert probe(target).object_bytes > 0


def test_a_cpu_in_another_architecture_has_records_of_its_own() -> None:
    target = resolve("arm/rasp4b")
    assert target.record_names == ("cortex-a72-armv7",)
    for text in ("llvm -mcpu=arm1176jzf-s", "llvm -mtriple=arm-linux-gnueabihf -mcpu=arm1176jzf-s"):
        assert resolve(text).name == "arm1176jzf-s"


def test_riscv_linux_has_what_it_assumes() -> None:
    target = resolve("llvm -mtriple=riscv64")
    assert target.mattr == ("+a", "+c", "+d", "+f", "+m")
    assert target.mabi == "lp64d"
    assert any("mattr" in sentence for sentence in target.filled)
    assert resolve(json.dumps(target.to_dict())).fingerprint == target.fingerprint
    assert resolve("riscv/sifive-u74").fingerprint == resolve("visionfive-2").fingerprint


@pytest.mark.parametrize(
    ("text", "mcpu", "cores"),
    [
        ("cuda -arch=sm_53", "cortex-a57", 4),
        ("cuda -arch=sm_72", "carmel", 8),
        ("cuda -arch=sm_87", "cortex-a78", 12),
        ("cuda -arch=sm_110a", "neoverse-v3ae", 14),
        ("nvidia/jetson-tx2", "cortex-a57", 4),
        ("nvidia/jetson-orin-nano", "carmel", 6),
        ("cuda -arch=sm_72 -mcpu=carmel -num-cores=6", "carmel", 6),
    ],
)
def test_a_jetson_has_an_arm_host(text: str, mcpu: str, cores: int) -> None:
    target = resolve(text)
    assert target.host is not None
    assert (target.host.mtriple, target.host.mcpu) == ("aarch64-linux-gnu", mcpu)
    assert target.host.num_cores == target.num_cores == cores
    assert str(tvm_target(target).host.attrs["mcpu"]) == mcpu


def test_another_gpu_sits_in_this_machine() -> None:
    target = resolve("cuda -arch=sm_86")
    host = host_target()
    assert target.host is not None
    assert target.host.fingerprint == host.fingerprint
    assert target.filled[0] == (f"host {host.mcpu} with {host.num_cores} cores, as on this machine")
    assert dict(target.limits) == {
        "max_threads_per_block": 1024,
        "max_shared_memory_per_block": 49152,
        "thread_warp_size": 32,
        "registers_per_block": 65536,
    }
    assert dict(resolve("cuda -arch=sm_53").limits)["registers_per_block"] == 32768
    given = resolve("cuda -arch=sm_86 -max_shared_memory_per_block=101376")
    assert dict(given.limits)["max_shared_memory_per_block"] == 101376


def test_gpu_boards_are_tvms_tags() -> None:
    for board, tag in (
        ("jetson-orin", "nvidia/jetson-agx-orin-64gb"),
        ("jetson-xavier", "nvidia/jetson-agx-xavier"),
    ):
        assert resolve(board).fingerprint == resolve(tag).fingerprint
    desktop, tag = resolve("nvidia-rtx-3090"), resolve("nvidia/geforce-rtx-3090")
    assert (desktop.arch, desktop.limits) == (tag.arch, tag.limits)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("llvm -mcpu=cortex-a27", "LLVM knows no CPU 'cortex-a27'", "cortex-a7"),
        ("llvm -mcpu=znver33", "LLVM knows no CPU 'znver33'", "znver3"),
        ("llvm -mcpu=cortex-a72 -mattr=+fullfp61", "no attribute '+fullfp61'", "fullfp16"),
        (
            "llvm -mtriple=riscv64-linux-gnu -mcpu=cortex-a72",
            "no CPU 'cortex-a72' for riscv64-linux-gnu",
            "aarch64-linux-gnu",
        ),
        ("raspberry-pi/4b-arch64", "no TVM target tag", "raspberry-pi/4b-aarch64"),
        ('{"tag": "nvidia/jetson-orin"}', "no TVM target tag", "nvidia/jetson-orin-nano"),
        ("qcom/hexagon-v68", "target kind must be llvm or cuda, got 'hexagon'", ""),
        ("riscv/sifive-e76", "no code generation for triple 'riscv32", "riscv64-linux-gnu"),
        ("cuda", "needs the GPU's architecture", "-arch=sm_87"),
        ("cuda -arch=sm_78", "no GPU architecture 'sm_78'", "sm_"),
        ("cuda -arch=sm_87 -mcpu=cortex-a87", "no CPU 'cortex-a87'", "cortex-a"),
        ("raspberry-pi-44", "unknown target 'raspberry-pi-44'", "raspberry-pi-4"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_nearest_name(
    text: str, message: str, hint: str
) -> None:
    with pytest.raises(TargetError) as caught:
        resolve(text)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert_one_line(caught.value)


def assert_one_line(error: OfatvmError) -> None:
    for text in (error.message, error.hint):
        assert text.isprintable()
        assert len(text) < 400


CPUS = [cpu for triple in TRIPLES for cpu in cpus_of(triple)]
LETTERS = st.text("abz019-_+.,=:/ \\\"'{}[]é\0\n", min_size=1, max_size=6)
VALUES = (
    st.sampled_from(CPUS)
    | st.sampled_from([*TRIPLES, *GPU_ARCHITECTURES, "hard", "lp64d", "4", "0", "-1", "+neon,-crc"])
    | LETTERS
    | st.builds("{}{}".format, st.sampled_from(CPUS), LETTERS)
)
OPTIONS = st.sampled_from(
    ["mcpu", "mtriple", "mattr", "num-cores", "arch", "mfloat-abi", "mabi", *GPU_LIMITS, "march"]
)
WORD = st.builds(
    "{}{}{}{}".format, st.sampled_from(["-", "--", ""]), OPTIONS, st.sampled_from("= "), VALUES
)
STRINGS = st.builds(
    lambda kind, words: " ".join([kind, *words]),
    st.sampled_from(["llvm", "cuda", "", "rocm"]),
    st.lists(WORD, min_size=1, max_size=4),
)
JSON_KEYS = st.sampled_from(
    ["kind", "tag", "mcpu", "mtriple", "mattr", "num-cores", "arch", "host", "machine", "x"]
)
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | VALUES | st.lists(VALUES, max_size=2)
)
TABLES = st.dictionaries(
    JSON_KEYS, PLAIN | st.dictionaries(JSON_KEYS, PLAIN, max_size=3), max_size=4
)
TEXTS = STRINGS | TABLES.map(json.dumps) | VALUES | st.builds("nvidia/{}".format, VALUES)
MANY = settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)


@MANY
@given(text=TEXTS)
def test_500_malformed_strings(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        target = resolve(text)
        tvm_target(target)
    except (TargetError, MissingInputError) as error:
        assert_one_line(error)
        assert capfd.readouterr().err == ""
    else:
        reject()


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {as_toml(entry)}' for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return json.dumps(value, allow_nan=True).replace("NaN", "nan").replace("Infinity", "inf")


FILES = (
    TABLES.map(lambda table: "".join(f'"{k}" = {as_toml(v)}\n' for k, v in table.items())).map(
        str.encode
    )
    | st.binary(max_size=40)
    | st.text("[]{}=\"'.,\n# abcmkindpu019-", max_size=60).map(str.encode)
)


@MANY
@given(data=FILES)
def test_500_malformed_files(
    data: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "board.toml"
    path.write_bytes(data)
    try:
        target = resolve(str(path))
        tvm_target(target)
    except TargetError as error:
        assert_one_line(error)
        assert capfd.readouterr().err == ""
    else:
        reject()

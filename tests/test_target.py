from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofatvm.errors import MissingInputError, OfatvmError, TargetError
from ofatvm.paths import data_dir
from ofatvm.target import MAX_FILE_BYTES, Target, load_target, target_from_dict
from tests.targets import parse_target

A72 = Target("cortex-a72", "llvm", "aarch64-linux-gnu", "cortex-a72", ("+neon", "+crc"), 4)


@pytest.mark.parametrize(
    "text",
    [
        "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72 -mattr=+neon,+crc -num-cores=4",
        "  llvm  --mcpu=cortex-a72 --mtriple=aarch64-linux-gnu --mattr=+neon,+crc --num-cores=4 ",
        "-mcpu=cortex-a72 -num-cores=4 -mattr=+neon,+crc -mtriple=aarch64-linux-gnu",
        "llvm -mcpu cortex-a72 -mtriple aarch64-linux-gnu -num-cores 4 -mattr +crc,+neon",
        "llvm -mattr=+crc,+neon,+crc -mcpu=cortex-a72 -mtriple=aarch64-linux-gnu -num-cores=4",
        json.dumps(
            {
                "kind": "llvm",
                "mtriple": "aarch64-linux-gnu",
                "mcpu": "cortex-a72",
                "mattr": ["+neon", "+crc"],
                "num-cores": 4,
            }
        ),
    ],
)
def test_all_spellings_of_a_target_are_equal(text: str) -> None:
    assert parse_target(text) == A72


def test_the_dict_of_a_target_gives_it_back() -> None:
    assert parse_target(json.dumps(A72.to_dict())) == A72
    assert target_from_dict(A72.to_dict(), name="pi") == Target(
        "pi", "llvm", "aarch64-linux-gnu", "cortex-a72", ("+neon", "+crc"), 4
    )


def test_every_shipped_target_is_found_by_its_name() -> None:
    paths = sorted(data_dir("targets").glob("*.toml"))
    assert paths
    for path in paths:
        target = parse_target(path.stem)
        assert target == load_target(path) == parse_target(str(path))
        assert target.name == path.stem
        assert target.notes
        own = (target.mcpu, target.arch)
        for member in target.family:
            assert member in own or (data_dir("targets") / f"{member}.toml").is_file()


def test_a_target_is_named_after_what_is_known_of_it() -> None:
    assert parse_target("llvm").name == "llvm"
    assert parse_target("llvm -mtriple=riscv64-linux-gnu").name == "riscv64-linux-gnu"
    assert parse_target("llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a53").name == "cortex-a53"


def test_toml_may_hold_threads_family_and_notes(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text('num-cores = 4\nthreads = 2\nfamily = ["x86-64-v3"]\nnotes = "a board"\n')
    target = parse_target(str(path))
    assert (target.name, target.num_cores, target.threads) == ("board", 4, 2)
    assert (target.family, target.notes) == (("x86-64-v3",), "a board")


def test_threads_default_to_all_cores() -> None:
    assert A72.threads == 4
    assert A72.with_threads(1).threads == 1
    assert A72.with_threads(0).threads == 4
    with pytest.raises(TargetError, match="5 threads on a target of 4 cores"):
        A72.with_threads(5)
    with pytest.raises(TargetError, match="threads must be"):
        A72.with_threads(-1)


def test_only_what_changes_code_changes_the_fingerprint() -> None:
    same = [A72.with_threads(1), target_from_dict(A72.to_dict() | {"notes": "n"}, name="pi")]
    assert {target.fingerprint for target in same} == {A72.fingerprint}
    changes: list[dict[str, Any]] = [
        {"mcpu": "cortex-a53"},
        {"mattr": ["+neon"]},
        {"mtriple": "aarch64-none-elf"},
        {"num-cores": 2},
    ]
    others = [target_from_dict(A72.to_dict() | change, name="x") for change in changes]
    assert len({A72.fingerprint, *(target.fingerprint for target in others)}) == 5
    assert len(A72.fingerprint) == 12


def test_fingerprints_that_records_are_bound_to_stay() -> None:
    known = {"x86-64-v2": "07b11bb5c800", "x86-64-v3": "5605863754b1", "x86-64-v4": "82661cf5fa5e"}
    assert {name: parse_target(name).fingerprint for name in known} == known


def test_attributes_may_begin_with_a_minus_and_stand_apart() -> None:
    for text in ("llvm -mattr -sve,+crc", "llvm -mattr=+crc,-sve", "-mattr +crc,-sve"):
        assert parse_target(text).mattr == ("+crc", "-sve")


def test_calling_conventions_are_options_that_change_code() -> None:
    hard = parse_target("llvm -mtriple=armv7-linux-gnueabihf -mfloat-abi=hard")
    assert hard.to_dict()["mfloat-abi"] == "hard"
    wide = parse_target("llvm -mtriple=riscv64-linux-gnu -mabi=lp64d")
    assert wide.to_dict()["mabi"] == "lp64d"
    for target, option in ((hard, "mfloat-abi"), (wide, "mabi")):
        without = {key: value for key, value in target.to_dict().items() if key != option}
        assert target_from_dict(without, name="").fingerprint != target.fingerprint
        assert target_from_dict(target.to_dict(), name="").fingerprint == target.fingerprint


def test_cpu_options_of_a_cuda_string_are_its_hosts() -> None:
    target = parse_target(
        "cuda -arch=sm_87 -mcpu=cortex-a78 -num-cores=12 -max_threads_per_block=512"
    )
    assert (target.name, target.arch, target.num_cores) == ("sm_87", "sm_87", 12)
    assert target.host == Target("cortex-a78", mcpu="cortex-a78", num_cores=12)
    assert target.to_dict() == {
        "kind": "cuda",
        "arch": "sm_87",
        "max_threads_per_block": 512,
        "host": {"kind": "llvm", "mcpu": "cortex-a78", "num-cores": 12},
    }
    assert parse_target(json.dumps(target.to_dict())) == target


def test_tvms_own_additions_to_a_target_mean_nothing() -> None:
    value = A72.to_dict() | {"keys": ["arm_cpu", "cpu"], "tag": "", "feature.has_sve": False}
    assert parse_target(json.dumps(value | {"host": value})) == A72
    other = value | {"host": value | {"mcpu": "cortex-a53"}}
    with pytest.raises(TargetError, match="host of an llvm target must be the same CPU"):
        parse_target(json.dumps(other))


def test_a_tag_may_be_overridden() -> None:
    tags = {"pi/4": {"kind": "llvm", "mcpu": "cortex-a72", "num-cores": 4}, "zynq/7": {}}
    assert parse_target("pi/4", tags.__getitem__).num_cores == 4
    assert parse_target('{"tag": "pi/4", "num-cores": 2}', tags.__getitem__).num_cores == 2
    assert parse_target("zynq/7", tags.__getitem__).name == "7"


def test_a_machine_and_what_was_filled_in_do_not_change_code(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    machine = "[machine]\nmodel='x'\nclock-ghz=1\nmemory-ns=9\nmemory-gb-per-s=1\n"
    cache = "[[machine.caches]]\nsize-kib=32\nways=2\nlatency-cycles=4\n"
    path.write_text(f"mcpu = 'x'\n{machine}{cache}")
    target = load_target(path)
    assert target.machine is not None
    assert "machine" not in target.to_dict()
    bare = Target("board", mcpu="x", filled=("num-cores 1",))
    assert target.fingerprint == bare.fingerprint
    assert bare == Target("board", mcpu="x")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("llvm -mcp=cortex-a72", "-mcpu="),
        ("llvm -num_cores=2", "-num-cores="),
        ("llvm -march=native", "-mcpu="),
        ("rasberry-pi-4", "raspberry-pi-4"),
        ("cdua", ""),
        ('{"kind": "cudo"}', "cuda"),
        ('{"mcpuu": "x"}', "mcpu"),
        ("llvm -mfloat-abi=hart", "hard"),
        ("llvm -mabi=lp64dd", "lp64d"),
    ],
)
def test_a_slip_is_answered_with_the_nearest_name(text: str, hint: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_target(text)
    assert_one_line(caught.value)
    assert hint in caught.value.hint


BAD_TEXTS = [
    "",
    " \t\n",
    "\0",
    "nonsense",
    "x86-64-v9",
    "llvm cortex-a72",
    "llvm -mcpu",
    "llvm -mcpu=",
    "llvm -mcpu= cortex-a72",
    "llvm -march=native",
    "llvm -mcpu=a -mcpu=b",
    "llvm -mcpu=a;rm",
    "llvm -mcpu=" + "a" * 5000,
    "llvm -mattr=neon",
    "llvm -mattr=+neon,-neon",
    "llvm -mattr",
    "llvm -mattr -mcpu=x",
    "llvm -arch=sm_87",
    "llvm -thread_warp_size=32",
    "cuda -arch=sm_87 -max_threads_per_block=0",
    "cuda -arch=sm_87 -max_threads_per_block=999999999999",
    '{"kind": "cuda", "arch": "sm_87", "mcpu": "x"}',
    '{"kind": "cuda", "arch": "sm_87", "num-cores": 2}',
    '{"kind": "cuda", "arch": "sm_87", "host": {"kind": "cuda"}}',
    '{"kind": "cuda", "arch": "sm_87", "host": 3}',
    '{"kind": "cuda", "arch": "sm_87", "host": "x"}',
    '{"kind": "cuda", "arch": 87}',
    '{"tag": "raspberry-pi/4b-aarch64"}',
    '{"tag": 3}',
    '{"machine": 3}',
    '{"machine": {}}',
    "no/such-tag",
    "llvm -mattr=+neon,",
    "llvm -mattr=+NEON!",
    "llvm -num-cores=0",
    "llvm -num-cores=-1",
    "llvm -num-cores=2.5",
    "llvm -num-cores=x",
    "llvm -num-cores=\u0663",
    "llvm -num-cores=99999",
    "llvm -num-cores=" + "9" * 5000,
    "vulkan",
    "c -mcpu=cortex-m4",
    "-mtriple=../../x",
    "{",
    "{}x",
    '{"kind": "vulkan"}',
    '{"kind": "a b"}',
    '{"kind": 1}',
    '{"kind": null}',
    '{"mcpu": "x", "speed": 3}',
    '{"num-cores": true}',
    '{"num-cores": 2.0}',
    '{"num-cores": "2"}',
    '{"num-cores": 0}',
    '{"num-cores": NaN}',
    '{"num-cores": 1' + "0" * 5000 + "}",
    '{"mattr": "+neon"}',
    '{"mattr": [1]}',
    '{"mattr": [null]}',
    '{"threads": 2}',
    '{"threads": -1}',
    '{"family": ["../x"]}',
    '{"family": [""]}',
    '{"a":' * 100_000,
]


@pytest.mark.parametrize("text", BAD_TEXTS, ids=lambda text: repr(text[:30]))
def test_bad_text_gets_one_line(text: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_target(text)
    assert_one_line(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(TargetError) as caught:
        parse_target("x86-64-v9")
    assert "x86-64-v9" in caught.value.message
    assert "x86-64-v4" in caught.value.hint
    with pytest.raises(TargetError, match="unknown target 'host'"):
        parse_target("host")  # which only this machine's own CPU can answer
    with pytest.raises(TargetError) as caught:
        parse_target("qqqq")
    assert "`ofatvm targets` lists names" in caught.value.hint


@pytest.mark.parametrize(
    "data",
    [
        b"kind = ",
        b"kind = 3",
        b"\xff\xfe",
        b"\0",
        b"kind = 'llvm'\nkind = 'llvm'",
        b"[kind]\nx = 1",
        b"when = 2020-01-01",
        b"threads = 2020-01-01",
        b"num-cores = 0x" + b"f" * 9000,
        b"mattr = [0x" + b"f" * 9000 + b"]",
        b"a = " + b"[" * 20_000,
        b"mcpu = 'x'\n" + b"#" * MAX_FILE_BYTES,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_bad_toml_gets_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(data)
    with pytest.raises(TargetError) as caught:
        load_target(path)
    assert_one_line(caught.value)


def test_a_toml_file_needs_a_usable_name(tmp_path: Path) -> None:
    path = tmp_path / "my board.toml"
    path.write_text('mcpu = "x86-64-v3"\n')
    with pytest.raises(TargetError, match="target name"):
        load_target(path)


def test_what_is_no_file_is_a_missing_input(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    file = tmp_path / "file"
    file.write_text("")
    for path in ("no/such.toml", "x.toml", str(tmp_path), str(pipe), f"{file}/x", "/dev/zero"):
        with pytest.raises(MissingInputError) as caught:
            parse_target(path)
        assert_one_line(caught.value)


def test_a_name_too_long_for_the_system_is_an_error_of_ours() -> None:
    with pytest.raises((TargetError, MissingInputError)) as caught:
        parse_target("a" * 5000 + ".toml")
    assert_one_line(caught.value)


@given(st.text(max_size=60) | st.text("llvmcpu-=+, 0123456789{}[]\":/.\\'\n", max_size=60))
def test_any_text_is_a_target_or_an_error_of_ours(text: str) -> None:
    try:
        target = parse_target(text)
    except (TargetError, MissingInputError) as error:
        assert_one_line(error)
    else:
        assert parse_target(json.dumps(target.to_dict())).to_dict() == target.to_dict()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["kind", "mtriple", "mcpu", "mattr", "num-cores", "threads", "family", "notes", "other"]
)


@given(st.dictionaries(KEYS, JSON_VALUES | st.sampled_from(["llvm", "x86-64-v3", 2])))
def test_any_dict_is_a_target_or_an_error_of_ours(value: dict[str, Any]) -> None:
    try:
        target = target_from_dict(value, name="")
    except TargetError as error:
        assert_one_line(error)
    else:
        assert 1 <= target.threads <= target.num_cores
    with pytest.raises(TargetError):
        target_from_dict([value], name="")


def assert_one_line(error: OfatvmError) -> None:
    for text in (error.message, error.hint):
        assert "\n" not in text
        assert len(text) < 400
        assert text.isprintable()

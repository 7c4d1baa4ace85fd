from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofatvm.errors import TargetError
from ofatvm.machine import Cache, Machine, machine_from_dict
from ofatvm.target import load_target, shipped

NEAR = {"size-kib": 32, "ways": 2, "latency-cycles": 4}
FAR = {"size-kib": 1024, "ways": 16, "latency-cycles": 21.5, "shared": True}
TABLE: dict[str, Any] = {
    "model": "cortex-a72",
    "clock-ghz": 1.5,
    "memory-ns": 150,
    "memory-gb-per-s": 4.5,
    "caches": [NEAR, FAR],
}


def test_a_table_gives_a_machine() -> None:
    assert machine_from_dict(TABLE) == Machine(
        model="cortex-a72",
        clock_ghz=1.5,
        caches=(Cache(32, 2, 4), Cache(1024, 16, 21.5, shared=True)),
        memory_ns=150,
        memory_gb_per_s=4.5,
        line_bytes=64,
        misses_in_flight=8,
    )
    rest = {"line-bytes": 32, "misses-in-flight": 3}
    machine = machine_from_dict(TABLE | rest)
    assert (machine.line_bytes, machine.misses_in_flight) == (32, 3)


def test_every_shipped_cpu_has_a_machine_and_no_gpu() -> None:
    for path in shipped().values():
        target = load_target(path)
        simulated = target.kind == "llvm" and target.mcpu != "x86-64-v4"  # qemu has no AVX-512
        assert (target.machine is not None) == simulated, path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ""}, "machine model must be a CPU name"),
        ({"model": "a b"}, "machine model must be a CPU name"),
        ({"model": 3}, "machine: model must be a str"),
        ({"clock-ghz": 0}, "clock-ghz must be from 0.001 to 10, got 0"),
        ({"clock-ghz": 1e-320}, "clock-ghz must be from 0.001 to 10"),
        ({"clock-ghz": -1.0}, "clock-ghz must be from 0.001"),
        ({"clock-ghz": float("nan")}, "clock-ghz must be from 0.001"),
        ({"clock-ghz": float("inf")}, "clock-ghz must be from 0.001"),
        ({"clock-ghz": 10**400}, "got a number far beyond"),
        ({"clock-ghz": "1.5"}, "clock-ghz must be from 0.001"),
        ({"clock-ghz": True}, "clock-ghz must be from 0.001"),
        ({"clock-ghz": 1500}, "clock-ghz must be from 0.001 to 10"),
        ({"memory-ns": 0}, "memory-ns must be from 0.001"),
        ({"memory-gb-per-s": 0}, "memory-gb-per-s must be from 0.001"),
        ({"line-bytes": 48}, "line-bytes must be a power of two, got 48"),
        ({"line-bytes": 64.0}, "line-bytes must be a whole number"),
        ({"line-bytes": 0}, "line-bytes must be a whole number"),
        ({"misses-in-flight": 0}, "misses-in-flight must be a whole number"),
        ({"caches": []}, "1 to 3 levels of cache, got 0"),
        ({"caches": [NEAR, FAR, FAR, FAR]}, "1 to 3 levels of cache, got 4"),
        ({"caches": NEAR}, "needs a list of caches"),
        ({"caches": [3]}, "machine.caches must be a table, got a int"),
        ({"caches": [FAR, NEAR]}, "larger and slower than the one before"),
        ({"caches": [NEAR, NEAR]}, "larger and slower than the one before"),
        ({"caches": [NEAR | {"ways": 3}]}, "32 KiB cannot have 3 ways of 64-byte lines"),
        ({"caches": [NEAR | {"ways": 0}]}, "ways must be a whole number"),
        ({"caches": [NEAR | {"size-kib": 0}]}, "size-kib must be a whole number"),
        ({"caches": [NEAR | {"size-kib": 32.5}]}, "size-kib must be a whole number"),
        ({"caches": [NEAR | {"shared": 1}]}, "shared must be a bool"),
        ({"caches": [NEAR | {"size": 1}]}, "unknown key 'size' in machine.caches"),
        ({"caches": [{"ways": 1}]}, "machine.caches lacks size-kib"),
        ({"clock": 1.5}, "unknown key 'clock' in machine"),
        ({"clock_ghz": 1.5}, "unknown key 'clock_ghz' in machine"),
    ],
)
def test_a_wrong_table_is_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError) as caught:
        machine_from_dict(TABLE | change)
    assert message in caught.value.message
    assert "\n" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("key", ["model", "clock-ghz", "memory-ns", "memory-gb-per-s"])
def test_what_every_machine_needs(key: str) -> None:
    with pytest.raises(TargetError, match=f"machine lacks {key}"):
        machine_from_dict({name: value for name, value in TABLE.items() if name != key})


def test_a_machine_without_caches_is_told_how() -> None:
    with pytest.raises(TargetError) as caught:
        machine_from_dict({name: value for name, value in TABLE.items() if name != "caches"})
    assert "caches" in caught.value.message + caught.value.hint


ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
CACHES = st.lists(st.dictionaries(st.sampled_from([*FAR, "x"]), ANY | st.just(8)), max_size=5)


@given(st.dictionaries(st.sampled_from([*TABLE, "line-bytes", "x"]), ANY | CACHES), st.booleans())
def test_any_table_is_a_machine_or_an_error_of_ours(table: dict[str, Any], whole: bool) -> None:
    try:
        machine = machine_from_dict((TABLE | table) if whole else table)
    except TargetError as error:
        assert_one_line(error)
    else:
        assert all(cache.size_kib > 0 for cache in machine.caches)


def assert_one_line(error: TargetError) -> None:
    assert error.message.isprintable()
    assert len(error.message) < 300

"""`Machine`: what a simulated device must know of a CPU beyond the code it is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from ofatvm.errors import TargetError

MAX_CACHES = 3
LONGEST_LINE = 1024
LEAST = 0.001


@dataclass(frozen=True, slots=True)
class Cache:
    """One level of data cache; `latency_cycles` is load to use. `shared` is by all cores."""

    size_kib: int
    ways: int
    latency_cycles: float
    shared: bool = False

    def __post_init__(self) -> None:
        """Check that the numbers can be those of a cache."""
        _check_whole("size-kib", self.size_kib, 1 << 20)
        _check_whole("ways", self.ways, 1024)
        _check_number("latency-cycles", self.latency_cycles, 1000)


@dataclass(frozen=True, slots=True)
class Machine:
    """One kind of core, its caches and its memory.

    `model` is llvm-mca's -mcpu, `caches` are 1 to 3 levels with the nearest first, `memory_ns` is
    the load-to-use latency of memory, `memory_gb_per_s` what all cores together sustain (1e9 bytes
    a second), `misses_in_flight` the line fills that one core keeps going.
    """

    model: str
    clock_ghz: float
    caches: tuple[Cache, ...]
    memory_ns: float
    memory_gb_per_s: float
    line_bytes: int = 64
    misses_in_flight: int = 8

    def __post_init__(self) -> None:
        """Check numbers, and that lines fill each cache and caches grow outward."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", self.model):
            raise TargetError(f"machine model must be a CPU name, got {self.model[:60]!r}")
        _check_number("clock-ghz", self.clock_ghz, 10)
        _check_number("memory-ns", self.memory_ns, 10_000)
        _check_number("memory-gb-per-s", self.memory_gb_per_s, 10_000)
        _check_whole("misses-in-flight", self.misses_in_flight, 1024)
        _check_whole("line-bytes", self.line_bytes, LONGEST_LINE)
        if self.line_bytes & (self.line_bytes - 1):
            raise TargetError(f"machine line-bytes must be a power of two, got {self.line_bytes}")
        if not 1 <= len(self.caches) <= MAX_CACHES:
            raise TargetError(
                f"a machine has 1 to {MAX_CACHES} levels of cache, got {len(self.caches)}"
            )
        for cache in self.caches:
            if cache.size_kib * 1024 % (cache.ways * self.line_bytes):
                raise TargetError(
                    f"a cache of {cache.size_kib} KiB cannot have {cache.ways} ways of "
                    f"{self.line_bytes}-byte lines"
                )
        for near, far in zip(self.caches, self.caches[1:], strict=False):
            if far.size_kib <= near.size_kib or far.latency_cycles <= near.latency_cycles:
                raise TargetError(
                    "each level of cache must be larger and slower than the one before",
                    hint="[[machine.caches]] tables go from the nearest outward",
                )


def machine_from_dict(value: Any) -> Machine:
    """A machine from a `[machine]` table, whose keys are Machine's fields in kebab-case."""
    table = _fields_of("machine", value, Machine)
    caches = table.get("caches")
    if not isinstance(caches, list | tuple):
        raise TargetError(
            "machine needs a list of caches", hint="add [[machine.caches]] tables, nearest first"
        )
    table["caches"] = tuple(
        Cache(**_fields_of("machine.caches", cache, Cache)) for cache in caches[: MAX_CACHES + 1]
    )
    return Machine(**table)


def _fields_of(label: str, value: Any, of: type[Cache] | type[Machine]) -> dict[str, Any]:
    """A table's values as keyword arguments; unknown, missing and mistyped keys are errors."""
    if not isinstance(value, Mapping):
        raise TargetError(f"{label} must be a table, got a {type(value).__name__}")
    known = {field.name.replace("_", "-"): field for field in fields(of)}
    unknown = sorted(str(key) for key in value if key not in known)
    if unknown:
        raise TargetError(
            f"unknown key {unknown[0][:60]!r} in {label}", hint=f"keys: {', '.join(known)}"
        )
    required = [key for key, field in known.items() if field.default is MISSING]
    missing = [key for key in required if key not in value]
    if missing:
        raise TargetError(f"{label} lacks {missing[0]}", hint=f"it needs {', '.join(required)}")
    types = {"model": str, "shared": bool}
    for key, expected in types.items():
        if key in value and type(value[key]) is not expected:
            raise TargetError(f"{label}: {key} must be a {expected.__name__}")
    return {field.name: value[key] for key, field in known.items() if key in value}


def _check_number(label: str, value: Any, upper: float) -> None:
    if type(value) not in (int, float) or not LEAST <= value <= upper:
        raise TargetError(
            f"machine {label} must be from {LEAST:g} to {upper:g}, got {_show(value)}"
        )


def _check_whole(label: str, value: Any, upper: int) -> None:
    if type(value) is not int or not 1 <= value <= upper:
        raise TargetError(
            f"machine {label} must be a whole number from 1 to {upper}, got {_show(value)}"
        )


def _show(value: Any) -> str:
    if type(value) is int and abs(value) >= 10**9:
        return "a number far beyond"
    return repr(value)[:60] if isinstance(value, int | float | str) else f"a {type(value).__name__}"

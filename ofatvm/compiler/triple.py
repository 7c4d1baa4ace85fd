"""Triples such as `aarch64-linux-gnu`: those that ofatvm makes code for, each in one spelling.

LLVM ends the process on many a word that is none of these, so it is asked only about them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ofatvm.errors import TargetError
from ofatvm.target_text import nearest

# What users and TVM's tags write: the one word for it.
ARCHITECTURES = {word: word for word in ("x86_64", "aarch64", "riscv64", "arm", "armv7", "armv8l")}
ARCHITECTURES |= {"amd64": "x86_64", "arm64": "aarch64", "armv6": "arm", "armv6l": "arm"}
ARCHITECTURES |= {"armv7a": "armv7", "armv7l": "armv7", "armv8a": "armv8l"}
_GNU = ("gnu", "musl", "android")
_EABI = ("gnueabihf", "gnueabi", "musleabihf", "musleabi", "androideabi")
_COMMON = ("x86_64-linux-gnu", "aarch64-linux-gnu", "armv7-linux-gnueabihf", "riscv64-linux-gnu")


@dataclass(frozen=True, slots=True)
class Triple:
    """An architecture and the C library and calling convention of its Linux."""

    architecture: str
    environment: str

    def __str__(self) -> str:
        """As LLVM takes it."""
        return f"{self.architecture}-linux-{self.environment}"

    @property
    def is_arm(self) -> bool:
        """Whether it is of 32-bit ARM."""
        return self.architecture.startswith("arm")


def parse_triple(text: str) -> Triple:
    """A triple in its one spelling: no vendor, one name for each architecture.

    `aarch64`, `arm64-unknown-linux-gnu` and `aarch64-linux` are all aarch64-linux-gnu.
    """
    first, *words = text.split("-")
    architecture = ARCHITECTURES.get(first)
    if architecture is None:
        raise TargetError(
            f"no code generation for triple {text!r}",
            hint=nearest(text, _COMMON) or f"triples are {', '.join(_COMMON)}",
        )
    known = _EABI if architecture.startswith("arm") else _GNU
    if not words:
        return Triple(architecture, known[0])
    vendor, system = (words[:1], words[1:]) if words[0] != "linux" else ([], words)
    if all(vendor) and system[:1] == ["linux"] and len(system) <= 2:
        environment = system[1] if len(system) == 2 else known[0]
        if environment in known:
            return Triple(architecture, environment)
    raise TargetError(
        f"no code generation for triple {text!r}, which is none of Linux",
        hint=f"the nearest name is {architecture}-linux-{known[0]}",
    )

"""What compiled code is kept under: a digest of our own sources that shape it, and of versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

Road = Literal["relax", "relay", "gpu"]
_ALL = ("graph", "target", "compiler/link", "compiler/plan")
_CPU = (*_ALL, "compiler/memory", "compiler/program", "compiler/llvm")
SHAPING: Mapping[Road, tuple[str, ...]] = {
    "relax": (
        *_CPU,
        "compiler/kernels",
        "compiler/lower",
        "compiler/primfunc",
        "compiler/relax",
        "compiler/schedule",
    ),
    "relay": (
        *_CPU,
        "compiler/relay",
        "compiler/relay_graph",
        "compiler/relay_plain",
        "relay/blocks",
        "relay/build",
        "relay/dispatch",
        "relay/expr",
        "relay/objects",
    ),
    "gpu": (
        *_ALL,
        "compiler/gpu",
        "compiler/gpu_lower",
        "compiler/gpu_nvcc",
        "compiler/gpu_pack",
        "compiler/gpu_schedule",
        "compiler/gpu_space",
        "compiler/llvm",
        "compiler/primfunc",
    ),
}
"""The modules that shape each road's code; a test holds them against what is imported."""


@cache
def code_digest(road: Road, *versions: str) -> str:
    """Digest of what turns networks into machine code on a road, beside what the network is.

    `versions` are those of the compiler.
    """
    home = Path(__file__).parents[1]
    sources = [(home / f"{name}.py").read_bytes() for name in SHAPING[road]]
    parts = [hashlib.sha256(part).digest() for part in (*map(str.encode, versions), *sources)]
    return hashlib.sha256(b"".join(parts)).hexdigest()

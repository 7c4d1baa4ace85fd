"""Makes `tvm.s_tir.tensor_intrin` cheap to import.

Every tuning context and every stock builder worker imports that package, and its CUDA, ROCm and Metal
modules take 15-37 s of a small machine's time. The tensor intrinsics of x86 and ARM, which the
schedule rules of CPU targets look up by name, take under 2 s.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

_PACKAGE = "tvm.s_tir.tensor_intrin"


def import_cpu_intrinsics() -> None:
    """Register the CPU intrinsics only; must run before the first `TuneContext`. Idempotent."""
    if _PACKAGE in sys.modules:
        return
    parent = importlib.import_module("tvm.s_tir")
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"{_PACKAGE} is not where this version of TVM should have it")
    package = types.ModuleType(_PACKAGE)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules[_PACKAGE] = package
    parent.tensor_intrin = package  # type: ignore[attr-defined]
    for module in ("x86", "arm_cpu"):
        importlib.import_module(f"{_PACKAGE}.{module}")

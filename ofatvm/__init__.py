"""Once-for-All networks compiled by TVM: from a hardware target to a verified bundle.

Names are imported when they are first used, so that `import ofatvm` costs nothing: it loads neither
torch, tvm, xgboost nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ofatvm.arch import Arch, ArchSpace
    from ofatvm.errors import OfatvmError
    from ofatvm.graph import Operator, Totals, operator_graph, operators, totals
    from ofatvm.measurement import Measurement
    from ofatvm.spaces import SPACES, find_space, parse_arch
    from ofatvm.store import Store

__version__ = "0.1.0"

__all__ = [
    "SPACES",
    "Arch",
    "ArchSpace",
    "Measurement",
    "OfatvmError",
    "Operator",
    "Store",
    "Totals",
    "__version__",
    "find_space",
    "operator_graph",
    "operators",
    "parse_arch",
    "totals",
]

_HOME = {
    "SPACES": "spaces",
    "Arch": "arch",
    "ArchSpace": "arch",
    "find_space": "spaces",
    "parse_arch": "spaces",
    "OfatvmError": "errors",
    "Operator": "graph",
    "Totals": "graph",
    "operator_graph": "graph",
    "operators": "graph",
    "totals": "graph",
    "Measurement": "measurement",
    "Store": "store",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module 'ofatvm' has no attribute {name!r}")
    return getattr(import_module(f"ofatvm.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)

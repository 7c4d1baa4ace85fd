"""What the Relay environment has, as it says itself."""

from __future__ import annotations


def tvm_version() -> str:
    """The version of TVM that is imported there."""
    import tvm

    return str(tvm.__version__)

"""The two roads from an operator graph to machine code, by TVM's intermediate representations."""

from __future__ import annotations

from typing import Literal

Ir = Literal["relax", "relay"]
IRS: tuple[Ir, ...] = ("relax", "relay")
"""Relax of TVM 0.27, the default, and Relay of TVM 0.19 in an environment of its own."""

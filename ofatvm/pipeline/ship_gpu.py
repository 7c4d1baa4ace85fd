"""Building a network that ships for a GPU, and what can be said of it without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import networkx as nx

from ofatvm.bundle.manifest import Verified
from ofatvm.bundle.verify import NEEDS_GPU
from ofatvm.compiler.gpu import build_gpu_model
from ofatvm.compiler.gpu_lower import Weights
from ofatvm.events import Event, Notice, ignore
from ofatvm.pipeline.prove import Proof
from ofatvm.target import Target
from ofatvm.text import counted

_FORMATS = {"cubin": "machine code", "ptx": "PTX", "source": "CUDA source"}


def build_for_gpu(
    graph: nx.DiGraph[str],
    weights: Weights,
    target: Target,
    model: Path,
    traces: Mapping[str, str],
    *,
    on_event: Callable[[Event], None] = ignore,
) -> tuple[Proof, tuple[str, ...]]:
    """Link the network to `model`; how it was verified, which is not at all, and what to note.

    `traces`: the tuned schedules among the network's, by workload key.
    """
    built = build_gpu_model(graph, weights, target, model, traces)
    schedules = "all under dlight's default schedules"
    if traces:
        schedules = f"{len(traces)} under tuned schedules, the others under dlight's default ones"
    notes = (
        f"model.so has {counted(built.kernels, 'kernel')} for {target.arch} as "
        f"{_FORMATS[built.format]} ({built.format}), {schedules}",
        *built.notes,
    )
    on_event(Notice("warning", f"the code for {target.name} was not run: {NEEDS_GPU}"))
    return Proof(Verified.not_run(NEEDS_GPU), here=False), notes

"""Timing a network's program on a board, through an RPC session of TVM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofatvm.errors import MeasurementError

MAIN = "main"
WARM_UP_CALLS = 3


def measure_gpu(
    session: Any,
    path: Path,
    shapes: Sequence[tuple[int, ...]],
    *,
    kind: str = "cuda",
    calls: int = 10,
    repeats: int = 5,
    seed: int = 0,
) -> list[float]:
    """Milliseconds of one call, `repeats` times the mean of `calls` calls in a row.

    `session` is TVM's RPC session, or `tvm.rpc.LocalSession()`; `path` and `shapes` are those of a
    `GpuProgram`. The input is drawn from the seed. The weights are whatever the board's memory
    holds: no schedule's time depends on them, and none are sent. A program that fails is a
    MeasurementError; if the board does not answer after that, what TVM raised is raised, so that
    a lost board is no bad program.
    """
    import tvm
    from tvm import relax

    device = session.device(kind, 0)
    session.upload(bytearray(path.read_bytes()), path.name)
    try:
        machine = relax.VirtualMachine(session.load_module(path.name), device)
        image = np.random.default_rng(seed).standard_normal(shapes[0], dtype=np.float32)
        tensors = [tvm.runtime.tensor(image, device=device)]
        tensors += [tvm.runtime.empty(shape, "float32", device=device) for shape in shapes[1:]]
        machine.set_input(MAIN, *tensors)
        for _ in range(WARM_UP_CALLS):
            machine.invoke_stateful(MAIN)
        evaluate = machine.time_evaluator("invoke_stateful", device, number=calls, repeat=repeats)
        samples_s = evaluate(MAIN).results
        session.remove(path.name)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        session.remove(path.name)
        lines = str(error).strip().splitlines()
        raise MeasurementError(
            f"the program does not run on the board: {lines[-1][:200] if lines else type(error)}"
        ) from None
    return [1000.0 * seconds for seconds in samples_s]

"""Where a simulated network's time goes, kernel by kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ofatvm.arch import Arch
from ofatvm.device.simulated import SimulatedDevice, milliseconds
from ofatvm.errors import MeasurementError
from ofatvm.pipeline.measure import programs_for
from ofatvm.pipeline.setup import Setup


def breakdown(setup: Setup, device: SimulatedDevice, archs: Sequence[Arch]) -> list[dict[str, Any]]:
    """A row for each kernel call of each network, in the order they run.

    `ms` is simulated, with `compute_ms` of it in the CPU and `memory_ms` for misses of the caches;
    `instructions` counts all threads', by class in `mix`. What meeting threads cost is in no row.
    """
    programs = programs_for(setup, archs)
    rows: list[dict[str, Any]] = []
    for arch, program, (costs, error) in zip(
        archs, programs, device.simulations.programs(programs), strict=True
    ):
        if error:
            raise MeasurementError(f"{arch.encode()} cannot be simulated: {error}")
        kernels = {
            step.symbol: kernel.workload.key for kernel in program.kernels for step in kernel.steps
        }
        total = sum(cost.cycles for cost in costs)
        for number, (step, cost) in enumerate(zip(program.steps, costs, strict=True)):
            scale = device.machine.clock_ghz * 1e6
            rows.append(
                {
                    "arch": arch.encode(),
                    "number": number,
                    "kernel": kernels[step.symbol],
                    "ms": milliseconds([cost], device.machine),
                    "share": cost.cycles / total,
                    "compute_ms": cost.compute_cycles / scale,
                    "memory_ms": cost.memory_cycles / scale,
                    "instructions": cost.instructions,
                    "mix": cost.mix,
                }
            )
    return rows

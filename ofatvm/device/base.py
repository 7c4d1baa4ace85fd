"""What the pipeline asks of a device, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ofatvm.compiler.base import CompiledKernel
from ofatvm.compiler.relax import Program
from ofatvm.device.timing import Latency
from ofatvm.device.timing import Protocol as Measuring
from ofatvm.measurement import Kind


class Device(Protocol):
    """Runs compiled programs and kernels and says how long they take."""

    name: str
    kind: Kind

    def measure(
        self,
        programs: Sequence[Program],
        protocol: Measuring,
        *,
        seed: int,
        on_visit: Callable[[int, int], None] = ...,
    ) -> list[Latency | str]:
        """A latency for each program, or why there is none; DeviceError if the device is gone.

        `on_visit(done, total)` is called after every visit.
        """
        ...

    def time_kernels(self, kernels: Sequence[CompiledKernel]) -> dict[str, float]:
        """Milliseconds of each kernel alone, by its digest; DeviceError if one does not run."""
        ...

"""The GPUs of boards behind TVM's RPC tracker as one device.

As `ofatvm.device.rpc`, with one network of middling size as yardstick and as proof that a board is
well. Kernels are not timed alone. How many threads a board's CPU runs does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ofatvm.compiler.base import CompiledKernel
from ofatvm.compiler.relax import Program
from ofatvm.device.gpu_visit import GpuSpec, reference_time, visit_gpu, yardstick_s
from ofatvm.device.reference import Reference
from ofatvm.device.rpc import BoardDevice
from ofatvm.device.rpc_address import RpcAddress
from ofatvm.device.rpc_boards import TIMEOUT_S, BoardPool, Job
from ofatvm.device.timing import Protocol
from ofatvm.errors import DeviceError
from ofatvm.events import Event, ignore


class GpuDevice(BoardDevice):
    """The GPUs of the boards of one key."""

    def __init__(
        self,
        address: RpcAddress,
        yardstick: Program,
        reference_s: float | None = None,
        *,
        runs_on: str = "cuda",
        timeout_s: float = TIMEOUT_S,
        allow_network: bool = False,
        on_event: Callable[[Event], None] = ignore,
    ) -> None:
        """`reference_s`: the yardstick's undisturbed time, if known; `timeout_s`: `BoardPool`.

        `runs_on`: TVM's kind of the device; anything but cuda serves tests.
        """
        self.runs_on = runs_on
        self.yardstick = self._spec(yardstick)
        self.visit_reference = Reference(
            reference_s, lambda: self.undisturbed_s((reference_time, (self.yardstick,)))
        )
        super().__init__(
            BoardPool(
                address,
                0,
                [],
                check=(yardstick_s, (self.yardstick,)),
                timeout_s=timeout_s,
                allow_network=allow_network,
                on_event=on_event,
            )
        )

    def visit_job(self, program: Program, protocol: Protocol) -> Job:
        """See `BoardDevice.visit_job`."""
        words = (self._spec(program), self.yardstick, protocol.warmup_ms, protocol.block_ms)
        return visit_gpu, words

    def time_kernels(self, kernels: Sequence[CompiledKernel]) -> dict[str, float]:
        """Of no kernels, no times; there are no kernels of a GPU that run alone."""
        if kernels:
            raise DeviceError("a GPU's kernels are not timed alone", hint="measure whole networks")
        return {}

    def _spec(self, program: Program) -> GpuSpec:
        return str(program.path), program.shapes, self.runs_on

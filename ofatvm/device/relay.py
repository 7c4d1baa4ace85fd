"""This machine as a device for the Relay road: programs run by TVM 0.19's graph executor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ofatvm.compiler.relay_env import RelayError, RelayProcess, raise_if_killed
from ofatvm.device.local import VISIT_TIMEOUT_S, LocalDevice
from ofatvm.relay.load import start_device


class RelayDevice(LocalDevice):
    """As `LocalDevice`, with the same protocol of visits, in a process of the other environment."""

    def _start(self) -> Any:
        return _Child(self.threads)


class _Child:
    """One process, with the part of an executor's interface that the device uses."""

    def __init__(self, threads: int) -> None:
        self.process = RelayProcess(threads, initialise=start_device)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> _Call:
        return _Call(self.process, function, arguments)

    def shutdown(self) -> None:
        self.process.end()


class _Call:
    def __init__(
        self, process: RelayProcess, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        self.process, self.function, self.arguments = process, function, arguments

    def result(self) -> Any:
        try:
            return self.process.insist(self.function, *self.arguments, timeout_s=VISIT_TIMEOUT_S)
        except RelayError as error:
            raise_if_killed(error)
            raise RuntimeError(str(error)) from None

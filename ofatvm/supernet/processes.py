"""Several processes training one network, as torchrun starts them; one alone is the usual case."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ofatvm.errors import UsageError


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's number among all that train together."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that evaluates, writes and talks."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter], loss: float) -> float:
        """Give every process the mean of all gradients, and return the mean of the losses.

        A gradient that is missing here counts as zero.
        """
        if self.count == 1:
            return loss
        held = list(parameters)
        for parameter in held:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = [parameter.grad for parameter in held if parameter.grad is not None]
        flat = torch.cat([*(grad.reshape(-1) for grad in grads), torch.tensor([loss])])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        *means, mean_loss = flat.split([*(grad.numel() for grad in grads), 1])
        for grad, mean in zip(grads, means, strict=True):
            grad.copy_(mean.view_as(grad))
        return float(mean_loss)


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started (gloo); alone without it."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Processes()
        return
    if not torch.distributed.is_available():
        raise UsageError("this torch was built without torch.distributed", hint="train alone")
    try:
        torch.distributed.init_process_group("gloo")
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"WORLD_SIZE is set, but the processes do not find each other: "
            f"{str(error).splitlines()[0][:120]}",
            hint="start them with torchrun, or unset WORLD_SIZE",
        ) from None
    try:
        yield Processes(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()

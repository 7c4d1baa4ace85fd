"""Several processes training one network, as torchrun starts them; one alone is the usual case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ofatvm.errors import TrainingError, UsageError
from ofatvm.torchrun import together


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's number among all that train together."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that evaluates, writes and talks."""
        return self.rank == 0

    def agree(self, *numbers: int) -> bool:
        """Whether all processes give the same numbers, each below 2^63."""
        if self.count == 1:
            return True
        own = torch.tensor(numbers)
        all_of_them = [torch.empty_like(own) for _ in range(self.count)]
        with _reaching_all():
            torch.distributed.all_gather(all_of_them, own)
        return all(torch.equal(each, own) for each in all_of_them)

    def average_gradients(self, parameters: Iterable[nn.Parameter], loss: float) -> float:
        """Give every process the mean of all gradients, and return the mean of the losses.

        A gradient that is missing here counts as zero; one that is missing everywhere stays so,
        and the optimiser leaves its parameter alone, as it does in one process.
        """
        if self.count == 1:
            return loss
        held = list(parameters)
        used = torch.tensor([float(parameter.grad is not None) for parameter in held])
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in held]
        flat = torch.cat([*(grad.reshape(-1) for grad in grads), used, torch.tensor([loss])])
        with _reaching_all():
            torch.distributed.all_reduce(flat)
        flat /= self.count
        *means, used, mean_loss = flat.split([*(grad.numel() for grad in grads), len(held), 1])
        for parameter, mean, share in zip(held, means, used.tolist(), strict=True):
            parameter.grad = mean.view_as(parameter) if share else None
        return float(mean_loss)


@contextmanager
def _reaching_all() -> Iterator[None]:
    """TrainingError, within, if one of the others is gone."""
    try:
        yield
    except RuntimeError:
        raise TrainingError(
            "another of the processes that train together has ended",
            hint="mend what it says; the same command continues",
        ) from None


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started (gloo); alone without it."""
    if not together():
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

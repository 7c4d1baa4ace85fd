"""Train a supernet by the phases of a recipe; killed and started again, it gives the same curve.

Everything random in a step follows from the seed, the phase and the step's number, so that the
saved weights, momentum and step are all there is to a run's state.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ofatvm.arch import Arch, ArchSpace
from ofatvm.data import Augment, Batch, Dataset, steps_per_epoch, train_batches
from ofatvm.errors import BudgetError, CheckpointError, TrainingError
from ofatvm.events import Event, Notice, Progress, StageFinished, StageStarted, ignore
from ofatvm.supernet.images import Normaliser
from ofatvm.supernet.loss import backward
from ofatvm.supernet.memory import keep_memory
from ofatvm.supernet.net import Supernet
from ofatvm.supernet.processes import Processes
from ofatvm.supernet.recipe import Phase, RunConfig
from ofatvm.supernet.sorting import sort_channels
from ofatvm.supernet.training_state import FILE_NAME, TrainingState, load_state, save_state

SAVE_SECONDS = 60.0
Watch = Callable[[Supernet], dict[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A trained supernet with its curve, one entry of `history` an epoch, and its `seconds`."""

    supernet: Supernet
    history: tuple[Mapping[str, Any], ...]
    seconds: float


def run_key(dataset: Dataset, space: ArchSpace, config: RunConfig, processes: int = 1) -> str:
    """A name for what must stay the same when a run is continued.

    States of schema 1 had the number of processes in it; later ones keep that by itself.
    """
    images = len(dataset.train), len(dataset.val)
    parts = [space.name, space.resolutions, config.digest(), dataset.digest, images, processes]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def train(
    dataset: Dataset,
    space: ArchSpace,
    config: RunConfig,
    folder: Path,
    *,
    watch: Watch = lambda supernet: {},
    processes: Processes = Processes(),  # noqa: B008  a frozen value
    fresh: bool = False,
    save_seconds: float = SAVE_SECONDS,
    on_event: Callable[[Event], None] = ignore,
) -> Trained:
    """Train on `dataset.train`, keeping the state in `folder`.

    `fresh` passes over a state that is there; it stays until the first one of this run replaces it.
    `watch` is asked after every epoch for named figures of the network so far, which it must leave
    as it is; they go into the history. TrainingError when the loss is no longer finite.
    """
    return _Run(dataset, space, config, folder, processes, save_seconds, on_event).go(
        watch, fresh=fresh
    )


class _Run:
    """One run; `go` is the whole of it."""

    def __init__(
        self,
        dataset: Dataset,
        space: ArchSpace,
        config: RunConfig,
        folder: Path,
        processes: Processes,
        save_seconds: float,
        on_event: Callable[[Event], None],
    ) -> None:
        self.dataset, self.space, self.config, self.folder = dataset, space, config, folder
        self.processes, self.save_seconds, self.on_event = processes, save_seconds, on_event
        self.key = run_key(dataset, space, config)
        self.normalise = Normaliser(dataset.mean, dataset.std)
        self.augment = augmentation(config)
        self.steps_per_epoch = steps_per_epoch(len(dataset.train), config.batch)
        self.supernet = Supernet(space, seed=config.seed).to(memory_format=torch.channels_last)
        self.names = {p: name for name, p in self.supernet.named_parameters()}
        self.average: dict[str, Tensor] = {}
        self.teacher: Supernet | None = None
        self.optimiser: torch.optim.SGD
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.seconds = 0.0
        self.saved = self.mark = self.epoch_started = monotonic()
        self.epoch_steps = 0

    def go(self, watch: Watch, *, fresh: bool) -> Trained:
        started = monotonic()
        keep_memory()
        if self.config.batch < self.processes.count:
            raise BudgetError(
                f"a batch of {self.config.batch} is too small for {self.processes.count} processes"
            )
        state = None if fresh else self._found()
        first, step = (0, 0) if state is None else (state.phase, state.step)
        if not self.processes.agree(first, step):
            raise CheckpointError(
                f"the processes do not continue from one training state, as {self.folder} has it",
                hint=f"give all of them the same --out, or copy its {FILE_NAME} to each machine",
            )
        if state is not None:
            self._check_place(state)
            self._restore(state)
            if first < len(self.config.phases):
                name = self.config.phases[first].name
                self._say(Notice("info", f"continuing phase {name} at step {step}"))
        self.mark = self.saved = monotonic()
        for number in range(first, len(self.config.phases)):
            if step == 0:
                self._open(number)
            self._phase(number, step, watch)
            step = 0
        if self.config.ema_decay:
            self.supernet.load_state_dict({**self.supernet.state_dict(), **self.average})
        self._say(StageFinished("train", self._last(), monotonic() - started))
        return Trained(self.supernet.eval(), tuple(self.history), self.seconds)

    def _found(self) -> TrainingState | None:
        count = self.processes.count
        older = run_key(self.dataset, self.space, self.config, count)
        return load_state(self.folder, self.key, processes=count, older_key=older)

    def _open(self, number: int) -> None:
        """Begin a phase: take the teacher, sort channels, start momentum and average anew."""
        phase = self.config.phases[number]
        if phase.teacher == "largest" and self.teacher is None:
            self.teacher = self._watched().train()
        if phase.sort_channels:
            sort_channels(self.supernet, expands=self.config.phases[number - 1].expands)
        self.optimiser = new_optimiser(self.supernet, self.config, phase.rate(0))
        self._start_average()

    def _phase(self, number: int, start: int, watch: Watch) -> None:
        phase = self.config.phases[number]
        total = phase.epochs * self.steps_per_epoch
        self._say(
            StageStarted(
                f"train {phase.name}",
                total,
                f"{phase.epochs} epochs of {self.steps_per_epoch} steps",
            )
        )
        for epoch in range(start // self.steps_per_epoch, phase.epochs):
            self.epoch_started, self.epoch_steps = monotonic(), 0
            base = epoch * self.steps_per_epoch
            batches = train_batches(
                self.dataset.train,
                batch=self.config.batch,
                epoch=_offset(self.config.phases, number) + epoch,
                seed=self.config.seed,
                sizes_of_step=lambda step, base=base: self._sizes(number, base + step),  # type: ignore[misc]
                start_step=max(start - base, 0),
                augment=self.augment,
                part=(self.processes.rank, self.processes.count),
            )
            for batch in batches:
                step = base + batch.step
                self.losses.append(self._step(number, step, batch))
                self.epoch_steps += 1
                self._say(Progress(f"train {phase.name}", step + 1, total, self._detail()))
                last = batch.step + 1 == self.steps_per_epoch
                if not last and monotonic() - self.saved > self.save_seconds:
                    self._save(number, step + 1)
            self._finish_epoch(number, epoch, watch)

    def _finish_epoch(self, number: int, epoch: int, watch: Watch) -> None:
        phase = self.config.phases[number]
        loss = sum(self.losses) / len(self.losses)
        self.losses = []
        entry = {"phase": phase.name, "epoch": epoch + 1, "loss": round(loss, 6)}
        if self.processes.first:
            entry |= watch(self._watched())
        self.history.append(entry)
        self._say(
            Notice("info", f"{phase.name}, epoch {epoch + 1} of {phase.epochs}: {_figures(entry)}")
        )
        if epoch + 1 < phase.epochs:
            self._save(number, (epoch + 1) * self.steps_per_epoch)
        else:
            self._save(number + 1, 0)

    def _archs(self, number: int, step: int) -> tuple[Arch, ...]:
        return self.config.phases[number].archs(self.space, (self.config.seed, 7, number, step))

    def _sizes(self, number: int, step: int) -> tuple[int, ...]:
        return tuple(arch.resolution for arch in self._archs(number, step))

    def _step(self, number: int, step: int, batch: Batch) -> float:
        """One update; returns the loss of the first subnet."""
        phase = self.config.phases[number]
        rate = phase.rate(step / self.steps_per_epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        images = {size: self.normalise(pixels) for size, pixels in batch.images.items()}
        labels = torch.from_numpy(batch.labels)
        self.optimiser.zero_grad(set_to_none=True)
        self.supernet.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(self.config.seed, number, step, self.processes.rank))
            loss = backward(
                self.supernet,
                self.teacher,
                phase,
                self._archs(number, step),
                images,
                labels,
                self.config.label_smoothing,
            )
        loss = self.processes.average_gradients(self.supernet.parameters(), loss)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {step} of phase {phase.name}",
                hint="start over with --fresh and a smaller --learning-rate",
            )
        self.optimiser.step()
        self._update_average(step)
        return loss

    def _start_average(self) -> None:
        if self.config.ema_decay:
            self.average = {n: p.detach().clone() for n, p in self.supernet.named_parameters()}

    def _update_average(self, step: int) -> None:
        if self.config.ema_decay:
            # A young average follows closely, or it would be mostly the random start.
            decay = min(self.config.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                for name, parameter in self.supernet.named_parameters():
                    self.average[name].lerp_(parameter, 1 - decay)

    def _watched(self) -> Supernet:
        """A copy of the network as it would be used: averaged weights, if there are any."""
        return self._copy({**self.supernet.state_dict(), **self.average}).eval()

    def _copy(self, state: Mapping[str, Tensor]) -> Supernet:
        copy = Supernet(self.space, seed=self.config.seed).to(memory_format=torch.channels_last)
        copy.load_state_dict(state)
        copy.origin = self.supernet.origin
        return copy.train()

    def _save(self, phase: int, step: int) -> None:
        now = monotonic()
        self.seconds += now - self.mark
        self.mark = self.saved = now
        if not self.processes.first:
            return
        momentum = {
            self.names[p]: entry["momentum_buffer"]
            for p, entry in self.optimiser.state.items()
            if entry.get("momentum_buffer") is not None
        }
        tensors = {"model": self.supernet.state_dict(), "momentum": momentum}
        if self.average:
            tensors["average"] = self.average
        if self.teacher is not None:
            tensors["teacher"] = self.teacher.state_dict()
        save_state(
            self.folder,
            TrainingState(
                key=self.key,
                processes=self.processes.count,
                phase=phase,
                step=step,
                seconds=self.seconds,
                history=self.history,
                losses=self.losses,
                tensors=tensors,
            ),
        )

    def _check_place(self, state: TrainingState) -> None:
        """CheckpointError unless the state stands at a step that this run has."""
        epochs = [phase.epochs for phase in self.config.phases]
        steps = [count * self.steps_per_epoch for count in epochs] + [1]
        if not 0 <= state.phase <= len(epochs) or not 0 <= state.step < steps[state.phase]:
            raise CheckpointError(
                f"{self.folder / FILE_NAME} stands at step {state.step} of phase {state.phase}, "
                "which this run does not have",
                hint="start over with --fresh",
            )

    def _restore(self, state: TrainingState) -> None:
        try:
            self._set(state)
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"{self.folder / FILE_NAME} does not fit this network: "
                f"{str(error).splitlines()[0][:120]}",
                hint="start over with --fresh",
            ) from None

    def _set(self, state: TrainingState) -> None:
        self.supernet.load_state_dict(state.tensors["model"])
        self.history, self.losses = state.history, state.losses
        self.seconds = state.seconds
        self._start_average()
        self.average = {
            name: _fitting(state.tensors["average"][name], tensor)
            for name, tensor in self.average.items()
        }
        if "teacher" in state.tensors:
            self.teacher = self._copy(state.tensors["teacher"])
        if state.phase < len(self.config.phases):
            self.optimiser = new_optimiser(
                self.supernet, self.config, self.config.phases[state.phase].rate(0)
            )
            momentum = state.tensors.get("momentum", {})
            for parameter, name in self.names.items():
                if name in momentum:
                    fitting = _fitting(momentum[name], parameter)
                    self.optimiser.state[parameter]["momentum_buffer"] = fitting

    def _detail(self) -> str:
        seconds = max(monotonic() - self.epoch_started, 1e-9)
        rate = self.epoch_steps * self.config.batch / seconds
        recent = self.losses[-50:]
        figures = f"loss {sum(recent) / len(recent):.3f}, {rate:.0f} images/s"
        return f"{figures}; {self._last()}" if self.history else figures

    def _last(self) -> str:
        return _figures(self.history[-1]) if self.history else ""

    def _say(self, event: Event) -> None:
        if self.processes.first:
            self.on_event(event)


def augmentation(config: RunConfig) -> Augment:
    """What the configuration does to training images."""
    crop = (config.crop, 1.0) if config.crop else None
    return Augment(flip=config.flip, shift=config.shift, erase=config.erase, crop=crop)


def new_optimiser(
    network: torch.nn.Module, config: RunConfig, learning_rate: float
) -> torch.optim.SGD:
    """SGD with Nesterov momentum; batch norms and biases do not decay."""
    parameters = list(network.parameters())
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return torch.optim.SGD(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
    )


def _fitting(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor, if it can stand beside the other; RuntimeError if not."""
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise RuntimeError(f"a tensor is {tuple(tensor.shape)}, not {tuple(like.shape)}")
    return tensor


def _seed(*parts: int) -> int:
    """One seed of 63 bits out of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _offset(phases: Sequence[Phase], number: int) -> int:
    """Epochs before a phase: epochs are numbered through, so that no order of images returns."""
    return sum(phase.epochs for phase in phases[:number])


def _figures(entry: Mapping[str, Any]) -> str:
    parts = [f"loss {entry['loss']:.3f}"]
    parts += [
        f"{name} {value:.2f} %"
        for name, value in entry.items()
        if name not in ("phase", "epoch", "loss")
    ]
    return ", ".join(parts)

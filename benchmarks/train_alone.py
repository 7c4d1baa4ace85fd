"""One architecture trained alone, as a plain static network; resumable by the epoch.

The recipe is that of the supernet's first phase: the same images, augmentation, optimiser, batch
size, label smoothing and schedule, for as many epochs, at the architecture's own resolution.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ofatvm.arch import Arch
from ofatvm.data import Dataset, steps_per_epoch, train_batches
from ofatvm.supernet.images import Normaliser
from ofatvm.supernet.memory import keep_memory
from ofatvm.supernet.net import Subnet, Supernet, extract
from ofatvm.supernet.recipe import Phase, RunConfig
from ofatvm.supernet.train import augmentation, new_optimiser
from ofatvm.supernet.training_state import TrainingState, load_state, save_state
from ofatvm.tuning.energy import cpu_seconds


def train_alone(
    arch: Arch,
    dataset: Dataset,
    config: RunConfig,
    phase: Phase,
    folder: Path,
    *,
    start: Subnet | None = None,
    learns: Callable[[str], bool] = lambda name: True,
) -> tuple[Subnet, float]:
    """The trained network, in evaluation mode, and the CPU-seconds it took over all runs.

    It starts from scratch or from `start`, which is changed; parameters whose name `learns` does
    not take stay as they are. A folder belongs to one start and one choice of parameters.
    """
    torch.set_num_threads(1)
    keep_memory()
    text = f"{arch} {config.digest()} {phase} {dataset.digest} {len(dataset.train)}"
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    subnet = extract(Supernet(arch.space, seed=config.seed), arch) if start is None else start
    subnet = subnet.train().to(memory_format=torch.channels_last)
    for name, parameter in subnet.named_parameters():
        parameter.requires_grad_(learns(name))
    optimiser = new_optimiser(subnet, config, phase.rate(0))
    names = {p: name for name, p in subnet.named_parameters()}
    state = load_state(folder, key)
    first, seconds = (0, 0.0) if state is None else (state.step, state.seconds)
    if state is not None:
        subnet.load_state_dict(state.tensors["model"])
        for parameter, name in names.items():
            if parameter.requires_grad:
                optimiser.state[parameter]["momentum_buffer"] = state.tensors["momentum"][name]
    steps = steps_per_epoch(len(dataset.train), config.batch)
    normalise = Normaliser(dataset.mean, dataset.std)
    for epoch in range(first, phase.epochs):
        started = cpu_seconds()
        # Dropout draws of an epoch are the same whether the one before ran in this process or not.
        torch.manual_seed(int(np.random.SeedSequence([config.seed, epoch]).generate_state(1)[0]))
        for batch in train_batches(
            dataset.train,
            batch=config.batch,
            epoch=epoch,
            seed=config.seed,
            sizes_of_step=lambda step: (arch.resolution,),
            augment=augmentation(config),
        ):
            for group in optimiser.param_groups:
                group["lr"] = phase.rate(epoch + batch.step / steps)
            optimiser.zero_grad(set_to_none=True)
            logits = subnet(normalise(batch.images[arch.resolution]))
            labels = torch.from_numpy(batch.labels)
            F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing).backward()
            optimiser.step()
        seconds += cpu_seconds() - started
        save_state(
            folder,
            TrainingState(
                key=key,
                phase=0,
                step=epoch + 1,
                seconds=seconds,
                tensors={
                    "model": subnet.state_dict(),
                    "momentum": {
                        names[p]: entry["momentum_buffer"] for p, entry in optimiser.state.items()
                    },
                },
            ),
        )
        print(f"{arch}: epoch {epoch + 1} of {phase.epochs}, {seconds:.0f} CPU-s", flush=True)
    return subnet.eval(), seconds


def alone_phase(config: RunConfig, epochs: int) -> Phase:
    """The supernet's first phase for one network that nothing teaches."""
    return replace(config.phases[0], epochs=epochs, teacher="none", subnets=1, ends=False)

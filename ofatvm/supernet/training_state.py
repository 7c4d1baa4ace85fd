"""What a training run needs to go on: one safetensors file, replaced whole, read as untrusted."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as dump_safetensors
from torch import Tensor

from ofatvm.errors import CheckpointError, MissingInputError
from ofatvm.files import read_file, replace_file

SCHEMA = 2
FILE_NAME = "training.safetensors"
MAX_BYTES = 16 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """A run between two steps.

    `key` names what must not change over a run (space, configuration, data); `processes` is how
    many train together, and must not change either. `tensors` hold the groups `model`, `momentum`,
    `average` and `teacher`, each parameter name -> tensor. `step` counts within the phase;
    `history` has one entry an epoch, `losses` one number for each step since the last of them.
    """

    key: str
    phase: int
    step: int
    seconds: float
    processes: int = 1
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def save_state(folder: Path, state: TrainingState) -> None:
    """Replace the folder's training state; it is on the disk when this returns."""
    tensors = {
        f"{group}/{name}": tensor.detach().contiguous()
        for group, members in state.tensors.items()
        for name, tensor in members.items()
    }
    about = {
        "schema": SCHEMA,
        "key": state.key,
        "processes": state.processes,
        "phase": state.phase,
        "step": state.step,
        "seconds": state.seconds,
        "history": state.history,
        "losses": state.losses,
    }
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(
        folder / FILE_NAME, dump_safetensors(tensors, {"ofatvm-training": json.dumps(about)})
    )


def load_state(
    folder: Path, key: str, *, processes: int = 1, older_key: str = ""
) -> TrainingState | None:
    """The state to go on from, None where there is none.

    CheckpointError if the file is damaged, or if it belongs to another run than `key` by so many
    `processes`, which is `older_key` in files of schema 1.
    """
    path = folder / FILE_NAME
    try:
        data = read_file(path, MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MissingInputError(
            f"{path} cannot be read: {error.strerror}", hint="start over with --fresh"
        ) from None
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        about = json.loads(header["__metadata__"]["ofatvm-training"])
        if about["schema"] not in (1, SCHEMA):
            raise ValueError(f"schema {about['schema']}, not {SCHEMA}")
        if about["schema"] == 1:
            key, about["processes"] = older_key or key, processes
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in load_safetensors(data).items():
            group, _, member = name.partition("/")
            groups.setdefault(group, {})[member] = tensor
        state = TrainingState(
            key=str(about["key"]),
            phase=int(about["phase"]),
            step=int(about["step"]),
            seconds=float(about["seconds"]),
            processes=int(about["processes"]),
            history=[{**entry, "loss": float(entry["loss"])} for entry in about["history"]],
            losses=[float(loss) for loss in about.get("losses", [])],
            tensors=groups,
        )
        if not 0 <= state.seconds < math.inf:
            raise ValueError(f"it took {state.seconds} seconds")
    except (
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise CheckpointError(
            f"{path} is damaged: {str(error).splitlines()[0][:120] if str(error) else error!r}",
            hint="start over with --fresh",
        ) from None
    if state.key != key:
        raise CheckpointError(
            f"{path} belongs to another run (other data, space or settings)",
            hint="give the same options to continue it, another --out, or --fresh to start over",
        )
    if state.processes != processes:
        alone = state.processes == 1
        way = "without torchrun" if alone else f"with torchrun --nproc-per-node {state.processes}"
        raise CheckpointError(
            f"{path} was trained by {state.processes} process{'' if alone else 'es'}, now it would "
            f"be by {processes}",
            hint=f"continue {way}, or start over with --fresh",
        )
    return state

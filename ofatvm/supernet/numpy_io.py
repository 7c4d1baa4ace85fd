"""The edge between torch and the rest: subnets built, folded and run, arrays in and out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofatvm.arch import Arch
from ofatvm.measurement import check_finite
from ofatvm.supernet.checkpoint import load_weights
from ofatvm.supernet.evaluate import EVALUATION_BATCH, UNFIT, Exam
from ofatvm.supernet.fold import folded_weights
from ofatvm.supernet.folder import SupernetFolder
from ofatvm.supernet.net import Subnet, Supernet, extract

Folded = dict[str, tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True, slots=True)
class SubnetWeights:
    """One architecture cut out of a supernet: folded weights, and the module to check against."""

    arch: Arch
    folded: Folded
    origin: str
    module: Subnet

    def run(self, images: np.ndarray) -> np.ndarray:
        """PyTorch's output (n, classes) for float32 NHWC `images` (n, height, width, channels).

        It is finite, or there is a MeasurementError.
        """
        import torch

        batch = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        with torch.inference_mode():
            parts = [self.module(part).numpy() for part in batch.split(EVALUATION_BATCH)]
        outputs = np.concatenate(parts)
        check_finite(outputs, f"{self.arch.encode()} in PyTorch", hint=UNFIT)
        return outputs


def subnet_weights(arch: Arch, *, weights: Path | None, seed: int) -> SubnetWeights:
    """Cut `arch` out of the supernet in a weight file, or out of one initialised from the seed."""
    space = arch.space
    supernet = Supernet(space, seed=seed) if weights is None else load_weights(weights, space)
    module = extract(supernet.eval(), arch).eval()
    return SubnetWeights(arch, folded_weights(module, arch), supernet.origin, module)


def calibrated_weights(arch: Arch, folder: SupernetFolder) -> SubnetWeights:
    """Cut `arch` out of a trained supernet, statistics recomputed on its calibration images."""
    supernet = load_weights(folder.weights, folder.space)
    module = folder_exam(folder).calibrated(supernet, arch).eval()
    return SubnetWeights(arch, folded_weights(module, arch), supernet.origin, module)


def folder_exam(folder: SupernetFolder) -> Exam:
    """The exam that a folder carries: its calibration and its held-out images."""
    return Exam(folder.calibration(), folder.evaluation(), folder.mean, folder.std)

"""From decoded pictures to what a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Normaliser:
    """Turns uint8 NHWC pictures into the float32 NCHW input, x = (pixel / 255 - mean) / std."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """One mean and one deviation per channel, of pixels in 0..1."""
        self.mean = torch.tensor(mean, dtype=torch.float32)
        self.std = torch.tensor(std, dtype=torch.float32)

    def __call__(self, images: np.ndarray) -> Tensor:
        """(n, c, h, w) in channels-last memory, for `images` (n, h, w, c)."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).float().div_(255.0)
        return pixels.sub_(self.mean).div_(self.std).permute(0, 3, 1, 2)

"""Batch-norm recalibration: every subnet needs statistics of its own before it is evaluated."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ofatvm.arch import Arch
from ofatvm.errors import DatasetError
from ofatvm.supernet.net import Subnet, Supernet, extract


def recalibrated(supernet: Supernet, arch: Arch, batches: Iterable[Tensor]) -> Subnet:
    """Cut `arch` out and recalibrate it; the supernet stays as it is."""
    return recalibrate(extract(supernet, arch), batches)


def recalibrate(subnet: Subnet, batches: Iterable[Tensor]) -> Subnet:
    """Set the running statistics of every batch norm in `subnet`, and return it.

    They become the means, weighted by images, of the per-batch mean and (biased) variance, every
    batch being normalised by its own. `batches` yields preprocessed NCHW float32 images. Only
    the norms change; on an error nothing does.
    """
    norms = [part for part in subnet.modules() if isinstance(part, nn.BatchNorm2d)]
    flags = [(part, part.training) for part in subnet.modules()]
    sums = {norm: _Statistics(norm) for norm in norms}
    images = 0
    try:
        subnet.eval()
        for norm in norms:
            # Training without tracking normalises by the batch and writes no statistics.
            norm.training, norm.track_running_stats = True, False
        with torch.no_grad():
            for batch in batches:
                if not torch.isfinite(batch).all():
                    raise DatasetError("a calibration batch holds NaN or infinite values")
                subnet(batch)
                images += len(batch)
    finally:
        for statistics in sums.values():
            statistics.handle.remove()
        for part, training in flags:
            part.training = training
        for norm in norms:
            norm.track_running_stats = True
    if images == 0:
        raise DatasetError(
            "there are no images to calibrate on", hint="2,000 training images are usual"
        )
    with torch.no_grad():
        for norm in norms:
            sums[norm].store(norm, images)
    return subnet


class _Statistics:
    """Sums of one norm's batch means and variances, times images, in float64."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self.mean = torch.zeros(norm.num_features, dtype=torch.float64)
        self.variance = torch.zeros(norm.num_features, dtype=torch.float64)
        self.handle = norm.register_forward_pre_hook(self._collect)

    def _collect(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0]
        if x.shape[0] * x.shape[2] * x.shape[3] < 2:
            raise DatasetError(
                f"a batch of {len(x)} at {x.shape[2]}x{x.shape[3]} has no variance to calibrate on",
                hint="use batches of at least two images",
            )
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        self.mean += mean.double() * len(x)
        self.variance += variance.double() * len(x)

    def store(self, norm: nn.BatchNorm2d, images: int) -> None:
        norm.running_mean.copy_(self.mean / images)
        norm.running_var.copy_(self.variance / images)

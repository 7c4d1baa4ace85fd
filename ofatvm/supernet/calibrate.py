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
            # Training with momentum 1 normalises by the batch and leaves that batch's statistics.
            norm.training, norm.momentum = True, 1.0
        with torch.no_grad():
            for batch in batches:
                if not torch.isfinite(batch).all():
                    raise DatasetError("a calibration batch holds NaN or infinite values")
                subnet(batch)
                images += len(batch)
        if images == 0:
            raise DatasetError(
                "there are no images to calibrate on", hint="2,000 training images are usual"
            )
    except BaseException:  # Ctrl-C included: the norms are as they were, and it goes on up
        for statistics in sums.values():
            statistics.restore()
        raise
    finally:
        for statistics in sums.values():
            statistics.close()
        for part, training in flags:
            part.training = training
    for statistics in sums.values():
        statistics.store(images)
    return subnet


class _Statistics:
    """Sums of one norm's batch means and variances, times images, in float64."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self.norm = norm
        self.momentum = norm.momentum
        self.buffers = {name: buffer.clone() for name, buffer in norm.named_buffers()}
        self.mean = torch.zeros(norm.num_features, dtype=torch.float64)
        self.variance = torch.zeros(norm.num_features, dtype=torch.float64)
        self.handles = (
            norm.register_forward_pre_hook(_check_batch),
            norm.register_forward_hook(self._collect),
        )

    def _collect(self, norm: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0]
        values = x.shape[0] * x.shape[2] * x.shape[3]
        self.mean += self.norm.running_mean.double() * len(x)
        # The norm keeps the unbiased variance, and normalises by the biased one.
        self.variance += self.norm.running_var.double() * (len(x) * (values - 1) / values)

    def restore(self) -> None:
        with torch.no_grad():
            for name, buffer in self.norm.named_buffers():
                buffer.copy_(self.buffers[name])

    def close(self) -> None:
        self.norm.momentum = self.momentum
        for handle in self.handles:
            handle.remove()

    def store(self, images: int) -> None:
        self.restore()
        with torch.no_grad():
            self.norm.running_mean.copy_(self.mean / images)
            self.norm.running_var.copy_(self.variance / images)


def _check_batch(_: nn.Module, inputs: tuple[Tensor]) -> None:
    x = inputs[0]
    if x.shape[0] * x.shape[2] * x.shape[3] < 2:
        raise DatasetError(
            f"a batch of {len(x)} at {x.shape[2]}x{x.shape[3]} has no variance to calibrate on",
            hint="use batches of at least two images",
        )

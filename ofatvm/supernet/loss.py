"""The losses of one training step: who learns from the labels, and who from a teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ofatvm.arch import Arch
from ofatvm.supernet.net import Supernet
from ofatvm.supernet.recipe import Phase


def backward(
    supernet: Supernet,
    teacher: Supernet | None,
    phase: Phase,
    archs: Sequence[Arch],
    images: Mapping[int, Tensor],
    labels: Tensor,
    smoothing: float,
) -> float:
    """Add the gradients of one step to the supernet's; returns the first subnet's loss.

    `images` has the step's images (n, c, size, size) at the resolution of each subnet. The loss is
    NaN if any subnet's loss is not finite.

    In place, the first subnet is the largest and learns from the labels, the others from its
    outputs alone and without dropout: only the largest is regularised (BigNAS, section 3.3). With
    the largest network of an earlier phase as the teacher, every subnet learns from both, weighted
    alike. No teacher's outputs suffer dropout.
    """
    soft = None
    if phase.teacher == "largest":
        assert teacher is not None
        with torch.no_grad():
            largest = supernet.space.largest(archs[0].resolution)
            features = teacher.train().features(images[largest.resolution], largest)
            soft = F.softmax(teacher.logits(features, dropout=False), dim=1)
    losses: list[float] = []
    for place, arch in enumerate(archs):
        student = phase.teacher == "in place" and place > 0
        features = supernet.features(images[arch.resolution], arch)
        logits = supernet.logits(features, dropout=not student)
        if student:
            assert soft is not None
            loss = F.cross_entropy(logits, soft)
        else:
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
            if phase.teacher == "largest":
                assert soft is not None
                loss = loss + F.cross_entropy(logits, soft)
        loss.backward()
        losses.append(float(loss.detach()))
        if phase.teacher == "in place" and place == 0:
            soft = F.softmax(supernet.logits(features.detach(), dropout=False).detach(), dim=1)
    # A loss that is no number shows, whichever subnet has it.
    return losses[0] if all(map(math.isfinite, losses)) else math.nan

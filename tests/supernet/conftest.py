from collections.abc import Callable

import pytest
import torch

from ofatvm.arch import ArchSpace, StageSpec
from ofatvm.supernet.net import Supernet


def _small_space(**changes) -> ArchSpace:
    values = {
        "name": "small",
        "code": "small",
        "stem_width": 8,
        "first_width": 8,
        "stages": (StageSpec(16, 2, "relu", True), StageSpec(24, 2, "h_swish", True)),
        "head_width": 32,
        "feature_width": 40,
        "classes": 10,
        "resolutions": (28, 32),
        "stem_stride": 1,
        "in_channels": 1,
        "depths": (1, 2),
    }
    return ArchSpace(**(values | changes))


def _randomise_norms(supernet: Supernet, seed: int = 0) -> Supernet:
    """Make every norm, bias and kernel matrix matter, as in trained weights."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in supernet.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("running_var", "bn.weight")):
            tensor.mul_(torch.exp(0.2 * noise))
        elif name.endswith(("running_mean", "bias")):
            # The classifier's bias must not drown what the rest of the network says.
            tensor.add_((0.001 if name.startswith("classifier") else 0.1) * noise)
        elif name.endswith("_matrix"):
            tensor.add_(0.05 * noise)
    return supernet


@pytest.fixture(scope="session")
def make_space() -> Callable[..., ArchSpace]:
    return _small_space


@pytest.fixture(scope="session")
def small() -> ArchSpace:
    return _small_space()


@pytest.fixture(scope="session")
def randomise_norms() -> Callable[[Supernet], Supernet]:
    return _randomise_norms


@pytest.fixture(scope="module")
def net(small, randomise_norms) -> Supernet:
    return randomise_norms(Supernet(small, seed=5)).eval()


@pytest.fixture
def state(net) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}

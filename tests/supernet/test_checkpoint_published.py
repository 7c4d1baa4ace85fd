"""Weight files laid out as the Once-for-All project publishes them."""

import math

import numpy as np
import pytest
import torch

from ofatvm.spaces import SPACES
from ofatvm.supernet.checkpoint import load_weights
from ofatvm.supernet.net import Supernet, extract
from tests.supernet.weight_files import SPELLINGS, old_spelling, same

OFA = SPACES["ofa_mbv3_d234_e346_k357_w1.0"]


def test_published_shapes_load(tmp_path):
    supernet = Supernet(OFA, seed=1)
    path = tmp_path / "ofa_mbv3_d234_e346_k357_w1.0"
    state = {old_spelling(key): tensor for key, tensor in supernet.state_dict().items()}
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
    assert same(load_weights(path, OFA), supernet.state_dict())


def published_layout() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of `ofa_mbv3_d234_e346_k357_w1.0` as published, written out from its spec."""
    layout: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            layout[f"{name}.{part}"] = (channels,)
        layout[f"{name}.num_batches_tracked"] = ()

    layout["first_conv.conv.weight"] = (16, 3, 3, 3)
    norm("first_conv.bn", 16)
    layout["blocks.0.conv.depth_conv.conv.weight"] = (16, 1, 3, 3)
    norm("blocks.0.conv.depth_conv.bn", 16)
    layout["blocks.0.conv.point_linear.conv.weight"] = (16, 16, 1, 1)
    norm("blocks.0.conv.point_linear.bn", 16)
    inputs, number = 16, 1
    for width, excite in ((24, False), (40, True), (80, False), (112, True), (160, True)):
        for _ in range(4):
            mid, name = 6 * inputs, f"blocks.{number}.conv"
            layout[f"{name}.inverted_bottleneck.conv.conv.weight"] = (mid, inputs, 1, 1)
            norm(f"{name}.inverted_bottleneck.bn.bn", mid)
            layout[f"{name}.depth_conv.conv.conv.weight"] = (mid, 1, 7, 7)
            layout[f"{name}.depth_conv.conv.7to5_matrix"] = (25, 25)
            layout[f"{name}.depth_conv.conv.5to3_matrix"] = (9, 9)
            norm(f"{name}.depth_conv.bn.bn", mid)
            if excite:
                squeezed = {96: 24, 144: 40, 240: 64, 480: 120, 672: 168, 960: 240}[mid]
                layout[f"{name}.depth_conv.se.fc.reduce.weight"] = (squeezed, mid, 1, 1)
                layout[f"{name}.depth_conv.se.fc.reduce.bias"] = (squeezed,)
                layout[f"{name}.depth_conv.se.fc.expand.weight"] = (mid, squeezed, 1, 1)
                layout[f"{name}.depth_conv.se.fc.expand.bias"] = (mid,)
            layout[f"{name}.point_linear.conv.conv.weight"] = (width, mid, 1, 1)
            norm(f"{name}.point_linear.bn.bn", width)
            inputs, number = width, number + 1
    layout["final_expand_layer.conv.weight"] = (960, 160, 1, 1)
    norm("final_expand_layer.bn", 960)
    layout["feature_mix_layer.conv.weight"] = (1280, 960, 1, 1)
    layout["classifier.linear.weight"] = (1000, 1280)
    layout["classifier.linear.bias"] = (1000,)
    return layout


@pytest.mark.parametrize("spelling", ["official", "old"])
def test_a_checkpoint_of_the_published_keys_and_shapes_loads(spelling, tmp_path):
    layout = published_layout()
    buffers = [key for key in layout if key.endswith(("running_mean", "running_var", "tracked"))]
    assert len(layout) - len(buffers) == 283
    generator = torch.Generator().manual_seed(4)
    state = {}
    for key, shape in layout.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif key.endswith("running_var") or ("bn" in key and key.endswith("weight")):
            state[key] = torch.rand(shape, generator=generator) + 0.5
        else:
            fan_in = max(1, math.prod(shape[1:]))
            state[key] = torch.randn(shape, generator=generator) / math.sqrt(fan_in)
    path = tmp_path / "ofa_mbv3_d234_e346_k357_w1.0"
    rename = SPELLINGS[spelling]
    torch.save({"state_dict": {rename(key): tensor for key, tensor in state.items()}}, path)
    supernet = load_weights(path, OFA)
    assert same(supernet, state)
    x = torch.randn(1, 3, 64, 64, generator=generator)
    for arch in (OFA.smallest(128), OFA.largest(128), OFA.sample(np.random.default_rng(1))):
        with torch.no_grad():
            wanted = supernet(x, arch)
            torch.testing.assert_close(
                extract(supernet, arch)(x) / wanted.abs().max(),
                wanted / wanted.abs().max(),
                rtol=0,
                atol=1e-5,
            )

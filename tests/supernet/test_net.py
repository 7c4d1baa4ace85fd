import numpy as np
import pytest
import torch

from ofatvm.arch import StageSpec
from ofatvm.errors import ArchError, BudgetError
from ofatvm.graph import operator_graph, totals
from ofatvm.spaces import find_space
from ofatvm.supernet.net import Supernet, extract

OFA, OFA_WIDE = (find_space(code) for code in ("mbv3w1.0", "mbv3w1.2"))


@pytest.fixture(scope="module")
def ofa(randomise_norms) -> Supernet:
    return randomise_norms(Supernet(OFA, seed=1)).eval()


def images(space, resolution, count=2):
    generator = torch.Generator().manual_seed(resolution)
    return torch.randn(count, space.in_channels, resolution, resolution, generator=generator)


def test_counts_are_those_of_the_published_supernet(ofa):
    assert sum(p.numel() for p in ofa.parameters()) == 7_678_880
    assert len(list(ofa.parameters())) == 283
    assert len(list(ofa.buffers())) == 192
    assert len(ofa.state_dict()) == 283 + 192


def test_keys_are_spelled_as_in_published_checkpoints(ofa):
    keys = ofa.state_dict().keys()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"first_conv.conv.weight", "final_expand_layer.conv.weight"}
    expected |= {"feature_mix_layer.conv.weight", "classifier.linear.weight"}
    expected |= {"classifier.linear.bias"}
    expected |= {f"{part}.bn.{n}" for part in ("first_conv", "final_expand_layer") for n in norm}
    for part in ("depth_conv", "point_linear"):
        expected.add(f"blocks.0.conv.{part}.conv.weight")
        expected |= {f"blocks.0.conv.{part}.bn.{n}" for n in norm}
    for index in range(1, 21):
        for part in ("inverted_bottleneck", "depth_conv", "point_linear"):
            expected.add(f"blocks.{index}.conv.{part}.conv.conv.weight")
            expected |= {f"blocks.{index}.conv.{part}.bn.bn.{n}" for n in norm}
        depthwise = f"blocks.{index}.conv.depth_conv"
        expected |= {f"{depthwise}.conv.7to5_matrix", f"{depthwise}.conv.5to3_matrix"}
        if (index - 1) // 4 in (1, 3, 4):
            expected |= {
                f"{depthwise}.se.fc.{layer}.{part}"
                for layer in ("reduce", "expand")
                for part in ("weight", "bias")
            }
    assert set(keys) == expected
    assert ofa.state_dict()["blocks.20.conv.depth_conv.conv.conv.weight"].shape == (960, 1, 7, 7)


def test_extracted_subnet_gives_the_supernets_output(ofa):
    rng = np.random.default_rng(0)
    archs = [OFA.largest(), OFA.smallest(), *(OFA.sample(rng) for _ in range(10))]
    for arch in archs:
        x = images(OFA, min(arch.resolution, 160))
        with torch.no_grad():
            wanted, got = ofa(x, arch), extract(ofa, arch)(x)
        assert wanted.shape == (2, 1000)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_extracted_subnet_has_the_graphs_parameters(ofa):
    arch = OFA.sample(np.random.default_rng(3))
    subnet = extract(ofa, arch)
    assert sum(p.numel() for p in subnet.parameters()) == totals(operator_graph(arch)).params


def test_extracted_subnet_shares_no_memory_with_the_supernet(ofa):
    before = {name: tensor.clone() for name, tensor in ofa.state_dict().items()}
    subnet = extract(ofa, OFA.smallest())
    for tensor in subnet.state_dict().values():
        tensor.fill_(7)
    assert all(torch.equal(before[name], tensor) for name, tensor in ofa.state_dict().items())


def test_smaller_kernels_come_through_the_matrices_in_a_chain(ofa):
    layer = ofa.blocks[1].conv.depth_conv.conv
    with torch.no_grad():
        full = layer.conv.weight[:5, 0].numpy()
        five = full[:, 1:6, 1:6].reshape(5, 25) @ layer.get_parameter("7to5_matrix").numpy().T
        middle = five.reshape(5, 5, 5)[:, 1:4, 1:4].reshape(5, 9)
        three = middle @ layer.get_parameter("5to3_matrix").numpy().T
        np.testing.assert_allclose(layer.sliced(5, 5)[:, 0].reshape(5, 25), five, rtol=1e-4)
        np.testing.assert_allclose(layer.sliced(5, 3)[:, 0].reshape(5, 9), three, rtol=1e-4)
        assert torch.equal(layer.sliced(5, 7), layer.conv.weight[:5])


def test_arch_is_an_argument_and_leaves_no_trace(ofa):
    arch, other = OFA.largest(128), OFA.smallest(128)
    x = images(OFA, 128)
    with torch.no_grad():
        first = ofa(x, arch)
        ofa(x, other)
        assert torch.equal(ofa(x, arch), first)


def test_same_seed_same_weights_whatever_the_global_generator(small):
    torch.manual_seed(5)
    first = Supernet.initialise(small, 3)
    torch.manual_seed(6)
    before = torch.get_rng_state()
    second = Supernet.initialise(small, 3)
    assert torch.equal(torch.get_rng_state(), before)
    other = Supernet.initialise(small, 4)
    weights = [net.state_dict() for net in (first, second, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(
        weights[0]["first_conv.conv.weight"], weights[2]["first_conv.conv.weight"]
    )
    assert first.origin == "untrained (seed 3)"
    assert extract(first, small.largest()).origin == first.origin


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_absurd_seed_is_refused(small, seed):
    with pytest.raises(BudgetError, match="seed"):
        Supernet(small, seed=seed)


@pytest.mark.parametrize("space", [OFA, OFA_WIDE], ids=["w1.0", "w1.2"])
def test_untrained_outputs_are_finite_and_differ_between_images(space):
    net = Supernet(space).eval()
    for arch in (space.largest(128), space.smallest(128)):
        with torch.no_grad():
            y = net(images(space, 128), arch)
        assert torch.isfinite(y).all()
        assert 1e-5 < y.std() < 1e3
        assert (y[0] - y[1]).abs().max() > 0.1 * y.std()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kernels": (3,)},
        {"kernels": (1, 5, 9)},
        {"expands": (1, 2)},
        {"stem_width": 16, "first_activation": "h_swish", "in_channels": 4},
        {"stages": (StageSpec(12, 1, "h_swish", False),), "depths": (1,), "resolutions": (17,)},
    ],
)
def test_any_space_trains_and_extracts(changes, make_space):
    space = make_space(**changes)
    net = Supernet(space)
    full, rng = space.largest(), np.random.default_rng(1)
    thin = space.uniform(kernel=space.kernels[0], expand=space.expands[0], depth=space.max_depth)
    for arch in (full, thin, space.smallest(), space.sample(rng)):
        x = images(space, arch.resolution)
        net(x, arch).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(extract(net, arch)(x), net(x, arch), rtol=1e-5, atol=1e-5)


def test_training_updates_the_statistics_of_active_channels_only(small):
    net = Supernet(small)
    net(images(small, 28), small.smallest(28))
    norm = net.blocks[1].conv.inverted_bottleneck.bn.bn
    active = small.mid_channels(0, 0, small.expands[0])
    assert (norm.running_var[:active] != 1).any()
    assert (norm.running_var[active:] == 1).all()
    assert norm.num_batches_tracked == 1
    assert net.blocks[2].conv.inverted_bottleneck.bn.bn.num_batches_tracked == 0


def test_architecture_of_another_space_is_refused(small):
    net = Supernet(small)
    with pytest.raises(ArchError, match="of space"):
        net(images(small, 28), OFA.smallest())
    assert net.eval()(images(small, 28), small.at(28).largest()).shape == (2, 10)

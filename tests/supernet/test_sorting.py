import pytest
import torch

from ofatvm.supernet.layers import ElasticBlock
from ofatvm.supernet.net import Supernet
from ofatvm.supernet.sorting import sort_channels


@pytest.fixture
def net(small, randomise_norms):
    net = Supernet(small, seed=3)
    randomise_norms(net)
    return net.eval()


def importance(block):
    return block.conv.point_linear.conv.conv.weight.detach().abs().sum((0, 2, 3))


def blocks(net):
    return [block for block in net.blocks if isinstance(block, ElasticBlock)]


def test_the_largest_network_computes_the_same(net, small):
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = net(x, small.largest(28))
        weight = blocks(net)[0].conv.point_linear.conv.conv.weight.clone()
        sort_channels(net, expands=1)
        after = net(x, small.largest(28))
    assert not torch.equal(weight, blocks(net)[0].conv.point_linear.conv.conv.weight)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def test_the_most_important_channels_come_first(net):
    sort_channels(net, expands=1)
    for block in blocks(net):
        values = importance(block)
        assert (values[:-1] >= values[1:]).all()


def test_channels_stay_in_the_bands_that_smaller_ratios_use(net, small):
    arch = small.uniform(kernel=7, expand=4, depth=2, resolution=28)
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = net(x, arch)
        sort_channels(net, expands=2)  # ratios 4 and 6 were open
        torch.testing.assert_close(before, net(x, arch), rtol=1e-4, atol=1e-5)
    edge = small.mid_channels(0, 0, 4)
    values = importance(blocks(net)[0])
    assert (values[: edge - 1] >= values[1:edge]).all()
    assert (values[edge:-1] >= values[edge + 1 :]).all()


def test_sorting_twice_changes_nothing(net):
    sort_channels(net, expands=1)
    once = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    sort_channels(net, expands=1)
    assert all(torch.equal(tensor, once[name]) for name, tensor in net.state_dict().items())

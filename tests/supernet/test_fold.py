import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ofatvm.errors import ArchError, CheckpointError
from ofatvm.graph import operator_graph, operators
from ofatvm.spaces import SPACES
from ofatvm.supernet.fold import folded_weights
from ofatvm.supernet.net import Supernet, extract

OFA = SPACES["ofa_mbv3_d234_e346_k357_w1.0"]
ACTIVATIONS = {"": lambda x: x, "relu": F.relu, "h_swish": F.hardswish, "h_sigmoid": F.hardsigmoid}


def evaluate(arch, weights, x):
    """Run the operator graph on NCHW `x` with folded weights, in float64."""
    graph = operator_graph(arch)
    values = {"input": x.double()}
    for name, operator in operators(graph).items():
        if operator.kind == "input":
            continue
        sources = [values[source] for source in graph.predecessors(name)]
        y = _apply(operator, sources, *weights.get(name, (None, None)))
        values[name] = ACTIVATIONS[operator.activation](y)
    return values["head.classifier"]


def _apply(operator, sources, weight, bias):
    x = sources[0]
    if operator.kind == "mean":
        return x.mean((2, 3))
    if operator.kind == "add":
        return x + sources[1]
    if operator.kind == "scale":
        return x * sources[1][:, :, None, None]
    weight = torch.from_numpy(weight).double()
    bias = None if bias is None else torch.from_numpy(bias).double()
    stride, pad = operator.stride, operator.kernel // 2
    if operator.kind == "conv":
        return F.conv2d(x, weight.permute(3, 2, 0, 1), bias, stride, pad)
    if operator.kind == "depthwise":
        kernel = weight.permute(2, 0, 1)[:, None]
        return F.conv2d(x, kernel, bias, stride, pad, groups=len(kernel))
    if operator.kind == "pointwise":
        return F.conv2d(x, weight.T[:, :, None, None], bias)
    return F.linear(x, weight.T, bias)


@pytest.fixture(scope="module")
def ofa(randomise_norms) -> Supernet:
    return randomise_norms(Supernet(OFA, seed=4)).eval()


def test_operator_graph_with_folded_weights_equals_the_module(ofa, small, randomise_norms):
    rng = np.random.default_rng(7)
    little = randomise_norms(Supernet(small)).eval()
    cases = [(ofa, OFA.sample(rng).at(128)) for _ in range(3)]
    cases += [(ofa, OFA.largest(132)), (little, small.largest()), (little, small.smallest(28))]
    for net, arch in cases:
        shape = (2, arch.space.in_channels, arch.resolution, arch.resolution)
        x = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        subnet = extract(net, arch)
        with torch.no_grad():
            wanted = subnet(x).double()
        got = evaluate(arch, folded_weights(subnet, arch), x)
        assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_every_node_with_a_weight_has_one_of_its_shape(ofa):
    arch = OFA.sample(np.random.default_rng(9))
    weights = folded_weights(extract(ofa, arch), arch)
    needed = {
        name: operator
        for name, operator in operators(operator_graph(arch)).items()
        if operator.weight_shape
    }
    assert list(weights) == list(needed)
    for name, (weight, bias) in weights.items():
        assert weight.shape == needed[name].weight_shape
        assert weight.dtype == np.float32
        assert weight.flags.c_contiguous
        assert (bias is None) == (name == "head.feature")
        if bias is not None:
            assert bias.shape == needed[name].out_shape[-1:]
            assert bias.dtype == np.float32


def test_folded_weights_are_copies(ofa):
    arch = OFA.smallest()
    subnet = extract(ofa, arch)
    before = subnet.classifier.linear.bias.detach().clone()
    for weight, bias in folded_weights(subnet, arch).values():
        weight.fill(0)
        if bias is not None:
            bias.fill(0)
    assert torch.equal(subnet.classifier.linear.bias, before)


def test_another_architecture_than_the_subnets_is_refused(ofa):
    subnet = extract(ofa, OFA.smallest())
    assert folded_weights(subnet, OFA.smallest(128))
    with pytest.raises(ArchError, match="cut out as"):
        folded_weights(subnet, OFA.largest())


def test_norm_that_folds_to_infinity_is_refused(ofa):
    arch = OFA.smallest()
    subnet = extract(ofa, arch)
    subnet.first_conv.bn.weight.data.fill_(3e38)
    subnet.first_conv.bn.running_var.fill_(1e-8)
    with pytest.raises(CheckpointError, match="stem are not finite"):
        folded_weights(subnet, arch)

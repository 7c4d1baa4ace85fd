import numpy as np
import pytest
import torch

from ofatvm.errors import DatasetError
from ofatvm.supernet.calibrate import recalibrate, recalibrated
from ofatvm.supernet.net import Supernet, extract


@pytest.fixture
def net(small):
    return Supernet(small, seed=2).eval()


def batches(*sizes, resolution=28):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 1, resolution, resolution, generator=generator) for n in sizes]


def test_statistics_are_the_mean_over_images_of_batch_statistics(net, small):
    data = batches(4, 2)
    subnet = recalibrated(net, small.largest(28), data)
    with torch.no_grad():
        outputs = [subnet.first_conv.conv(batch).numpy() for batch in data]
    mean = np.average([y.mean((0, 2, 3)) for y in outputs], axis=0, weights=[4, 2])
    variance = np.average([y.var((0, 2, 3)) for y in outputs], axis=0, weights=[4, 2])
    norm = subnet.first_conv.bn
    np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.running_var, variance, rtol=1e-4)


def test_later_layers_see_batch_normalised_inputs(net, small):
    (data,) = batches(8)
    arch = small.smallest(28)
    subnet = recalibrated(net, arch, [data])
    with torch.no_grad():
        calibrated = subnet(data)
        subnet.train()
        subnet.classifier.eval()
        torch.testing.assert_close(calibrated, subnet(data), rtol=1e-3, atol=1e-4)


def test_only_statistics_change_and_modes_stay(net, small):
    subnet = extract(net, small.largest(28)).train()
    subnet.classifier.eval()
    before = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}
    assert recalibrate(subnet, batches(4)) is subnet
    assert subnet.training
    assert not subnet.classifier.training
    assert all(part.track_running_stats for part in subnet.modules() if hasattr(part, "momentum"))
    for name, tensor in subnet.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.endswith(("running_mean", "running_var"))
    subnet.eval()
    again = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}
    subnet(batches(3)[0])
    assert all(torch.equal(tensor, again[name]) for name, tensor in subnet.state_dict().items())


def test_supernet_stays_as_it_is(net, small):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    recalibrated(net, small.largest(28), batches(4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no images"),
        ([torch.full((2, 1, 28, 28), torch.nan)], "NaN"),
        (batches(4) + batches(1, resolution=4), "no variance"),
    ],
    ids=["empty", "nan", "single pixel"],
)
def test_useless_images_change_nothing(net, small, data, message):
    subnet = extract(net, small.largest(28))
    before = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}
    with pytest.raises(DatasetError, match=message):
        recalibrate(subnet, data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in subnet.state_dict().items())
    assert not any(part.training or part._forward_pre_hooks for part in subnet.modules())

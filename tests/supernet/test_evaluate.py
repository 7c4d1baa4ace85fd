import numpy as np
import pytest
import torch

from ofatvm.errors import MeasurementError
from ofatvm.supernet.checkpoint import save_weights
from ofatvm.supernet.evaluate import Exam, evaluate
from ofatvm.supernet.images import Normaliser
from ofatvm.supernet.net import Supernet
from tests.supernet.toy import TOY, bars, toy_dataset

DATA = toy_dataset()
EXAM = Exam(bars(64, 3), bars(300, 4), DATA.mean, DATA.std)


@pytest.fixture(scope="module")
def net():
    return Supernet(TOY, seed=1).eval()


def test_pictures_are_scaled_and_normalised_per_channel():
    images = np.array([[[[0, 255, 51]]]], dtype=np.uint8)
    x = Normaliser((0.0, 0.5, 0.1), (1.0, 0.5, 0.2))(images)
    assert x.shape == (1, 3, 1, 1)
    torch.testing.assert_close(x.flatten(), torch.tensor([0.0, 1.0, 0.5]))


def test_accuracy_is_the_share_of_right_top_classes(net):
    subnet = EXAM.calibrated(net, TOY.smallest(10))
    correct = EXAM.correct(subnet)
    normalise = Normaliser(EXAM.mean, EXAM.std)
    pixels = EXAM.images.batch(np.arange(300), 10)
    with torch.inference_mode():
        expected = subnet(normalise(pixels)).argmax(1).numpy() == EXAM.images.labels
    np.testing.assert_array_equal(correct, expected)
    assert EXAM.top1_percent(net, TOY.smallest(10)) == pytest.approx(100 * expected.mean())


def test_a_supernet_in_training_mode_is_examined_as_in_evaluation_mode(net):
    training = Supernet(TOY, seed=1).train()
    expected, got = (EXAM.calibrated(each, TOY.largest()) for each in (net, training))
    assert not any(part.training for part in got.modules())
    x = Normaliser(EXAM.mean, EXAM.std)(EXAM.images.batch(np.arange(20), 12))
    with torch.inference_mode():
        torch.testing.assert_close(got(x), expected(x))
    assert training.training


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_outputs_that_are_no_numbers_are_no_answers(net, bad):
    from ofatvm.supernet.numpy_io import SubnetWeights

    subnet = EXAM.calibrated(net, TOY.smallest(10))
    with torch.no_grad():
        list(subnet.parameters())[-1].fill_(bad)
    with pytest.raises(MeasurementError, match=r"output of .* is not finite for .* of 250 inputs"):
        EXAM.correct(subnet)
    images = np.zeros((2, 10, 10, TOY.in_channels), np.float32)
    with pytest.raises(MeasurementError, match="in PyTorch is not finite for 2 of 2 inputs"):
        SubnetWeights(subnet.arch, {}, "", subnet).run(images)


def test_statistics_are_those_of_the_calibration_images(net):
    from ofatvm.supernet.calibrate import recalibrated

    inputs = Normaliser(EXAM.mean, EXAM.std)(EXAM.calibration.batch(np.arange(64), 12))
    expected = recalibrated(net, TOY.largest(), [inputs]).state_dict()
    for name, tensor in EXAM.calibrated(net, TOY.largest()).state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


def test_worker_processes_give_the_same_in_the_order_asked(tmp_path, net):
    path = tmp_path / "weights.safetensors"
    save_weights(path, net)
    archs = [TOY.largest(), TOY.smallest(10), TOY.smallest()]
    heard = []
    found = evaluate(path, TOY, EXAM, archs, on_result=lambda arch, row: heard.append(arch))
    assert sorted(map(str, heard)) == sorted(map(str, archs))
    for arch, row in zip(archs, found, strict=True):
        # One thread there, several here: a tie of two classes may fall the other way.
        assert (row == EXAM.correct(EXAM.calibrated(net, arch))).mean() > 0.99

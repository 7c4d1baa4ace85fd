import pytest
import torch
import torch.nn.functional as F

from ofatvm.supernet.loss import backward
from ofatvm.supernet.net import Supernet
from tests.supernet.toy import TOY, toy_config


def gradients(phase, archs, teacher=None):
    net = Supernet(TOY, seed=0).train()
    net.classifier.dropout.p = 0.0
    images = torch.randn(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 3
    loss = backward(net, teacher, phase, archs, {12: images}, labels, 0.1)
    grads = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    return net, images, labels, loss, grads


def test_in_place_the_others_learn_from_the_largest_alone():
    phase = toy_config().phases[0]
    archs = (TOY.largest(), TOY.smallest())
    net, images, labels, loss, grads = gradients(phase, archs)
    net.zero_grad()
    large = net(images, archs[0])
    expected = F.cross_entropy(large, labels, label_smoothing=0.1)
    soft = F.softmax(large.detach(), 1)
    (expected + F.cross_entropy(net(images, archs[1]), soft)).backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert "classifier.linear.weight" in grads
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, net.get_parameter(name).grad, rtol=1e-3, atol=1e-5)


def test_an_earlier_largest_network_teaches_beside_the_labels():
    phase = toy_config("progressive", 6).phases[-1]
    teacher = Supernet(TOY, seed=9)
    archs = (TOY.smallest(), TOY.largest())
    net, images, labels, loss, grads = gradients(phase, archs, teacher)
    teacher.classifier.dropout.p = 0.0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    net.zero_grad()
    with torch.no_grad():
        soft = F.softmax(teacher.train()(images, TOY.largest()), 1)
    losses = [
        F.cross_entropy(net(images, a), labels, label_smoothing=0.1)
        + F.cross_entropy(net(images, a), soft)
        for a in archs
    ]
    sum(losses).backward()
    assert loss == pytest.approx(losses[0].item(), rel=1e-4)
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, net.get_parameter(name).grad, rtol=1e-2, atol=1e-4)


def test_dropout_is_for_the_largest_as_it_learns_and_nobody_else(monkeypatch):
    outputs, targets = [], []
    loss = F.cross_entropy

    def recorded(logits, target, **options):
        outputs.append(logits.detach())
        targets.append(target)
        return loss(logits, target, **options)

    monkeypatch.setattr("ofatvm.supernet.loss.F.cross_entropy", recorded)
    (phase,) = toy_config().phases
    images = torch.randn(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    for seed in (1, 2):
        torch.manual_seed(seed)
        net = Supernet(TOY, seed=0).train()
        archs = (TOY.largest(), TOY.smallest())
        backward(net, None, phase, archs, {12: images}, torch.arange(8) % 3, 0.1)
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[1], outputs[3])
    assert torch.equal(targets[1], targets[3])

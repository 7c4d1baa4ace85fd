import numpy as np
import pytest

from ofatvm.errors import BudgetError
from ofatvm.spaces import find_space
from ofatvm.supernet.recipe import RunConfig, progressive, sandwich
from tests.supernet.toy import TOY, toy_config

SPACE = find_space("mbv3w1.0")


def test_progressive_shrinking_opens_one_dimension_after_the_other():
    phases = progressive(SPACE, 100, 0.1)
    opened = [(phase.kernels, phase.depths, phase.expands) for phase in phases]
    assert opened == [(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 3, 1), (3, 3, 2), (3, 3, 3)]
    assert [phase.subnets for phase in phases] == [1, 1, 2, 2, 4, 4]
    assert [phase.sort_channels for phase in phases] == [False] * 4 + [True] * 2
    assert [phase.teacher for phase in phases] == ["none"] + ["largest"] * 5


@pytest.mark.parametrize("epochs", [6, 7, 30, 605])
def test_progressive_epochs_add_up_and_follow_the_published_shares(epochs):
    shares = [phase.epochs for phase in progressive(SPACE, epochs, 0.1)]
    assert sum(shares) == epochs
    assert min(shares) >= 1
    if epochs == 605:
        assert all(
            abs(a - b) <= 2 for a, b in zip(shares, (180, 125, 25, 125, 25, 125), strict=True)
        )


def test_progressive_needs_an_epoch_a_phase():
    with pytest.raises(BudgetError, match="at least 6 epochs, got 5"):
        progressive(SPACE, 5, 0.1)


def test_a_closed_dimension_stays_at_its_largest():
    kernel_phase = progressive(SPACE, 60, 0.1)[1]
    for step in range(20):
        (arch,) = kernel_phase.archs(SPACE, (0, step))
        assert set(arch.expands) == {6}
        assert set(arch.depths) == {4}
    seen = {k for step in range(20) for k in kernel_phase.archs(SPACE, (0, step))[0].kernels}
    assert seen == {3, 5, 7}


def test_the_sandwich_has_the_largest_at_full_resolution_and_three_others_at_any():
    (phase,) = sandwich(SPACE, 10, 0.1)
    smallest_at, drawn_at = set(), set()
    for step in range(150):
        largest, smallest, *drawn = phase.archs(SPACE, (1, step))
        assert largest == SPACE.largest(SPACE.resolutions[-1])
        assert smallest == SPACE.smallest(smallest.resolution)
        assert len(drawn) == 2
        smallest_at.add(smallest.resolution)
        drawn_at |= {arch.resolution for arch in drawn}
    assert smallest_at == drawn_at == set(SPACE.resolutions)


def test_other_phases_have_one_random_resolution_a_step():
    phase = progressive(SPACE, 60, 0.1)[-1]
    steps = [{arch.resolution for arch in phase.archs(SPACE, (1, step))} for step in range(60)]
    assert all(len(step) == 1 for step in steps)
    assert len(set.union(*steps)) > 15


def test_subnets_of_a_step_follow_from_the_seed():
    (phase,) = sandwich(SPACE, 10, 0.1)
    assert phase.archs(SPACE, (1, 2)) == phase.archs(SPACE, (1, 2))
    assert phase.archs(SPACE, (1, 2)) != phase.archs(SPACE, (1, 3))


def test_the_rate_warms_up_and_falls_to_zero_as_a_cosine():
    (phase,) = sandwich(SPACE, 20, 0.5)
    rates = [phase.rate(progress) for progress in np.linspace(0, 20, 201)]
    assert rates[0] < 0.01
    assert max(rates) == pytest.approx(0.5, rel=1e-3)
    assert int(np.argmax(rates)) == 20  # after two of twenty epochs
    assert phase.rate(11) == pytest.approx(0.25)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert (np.diff(rates[20:]) <= 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 1}, "2 to 65536 images, got 1"),
        ({"ema_decay": 1.0}, "EMA decay must be from 0 to below 1, got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(BudgetError, match=message):
        toy_config(**changes)


def test_a_recipe_needs_phases():
    with pytest.raises(BudgetError, match="at least one phase"):
        RunConfig(recipe="none", phases=())


def test_the_digest_tells_configurations_apart():
    same, other = toy_config(), toy_config(label_smoothing=0.2)
    assert same.digest() == toy_config().digest() != other.digest()
    assert TOY.size() == 400

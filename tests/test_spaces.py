import pytest

from ofatvm.errors import ArchError
from ofatvm.graph import operator_graph, totals
from ofatvm.spaces import SPACES, base_space, find_space, parse_arch, space_for

SMALL = find_space("small28")


def test_the_space_for_small_pictures_is_wide_and_deep_enough():
    assert SMALL.size() >= 10**9
    large, small = (
        totals(operator_graph(arch)).macs for arch in (SMALL.largest(), SMALL.smallest())
    )
    assert large / small >= 6
    assert SMALL.resolutions[-1] == 28
    assert (SMALL.in_channels, SMALL.classes) == (1, 10)


def test_a_variant_has_other_classes_and_channels_and_nothing_else():
    variant = find_space("small28.c5x3")
    assert (variant.classes, variant.in_channels) == (5, 3)
    assert variant == find_space(variant.name) == space_for(SMALL, classes=5, in_channels=3)
    assert (variant.stages, variant.resolutions) == (SMALL.stages, SMALL.resolutions)
    arch = variant.largest(20)
    assert arch.encode().startswith("small28.c5x3/20/")
    assert parse_arch(arch.encode()) == arch
    graph = operator_graph(arch)
    assert graph.nodes["head.classifier"]["operator"].out_shape == (1, 5)
    assert graph.nodes["input"]["operator"].out_shape == (1, 20, 20, 3)


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.code)
def test_every_space_has_variants_that_lead_back_to_it(space):
    variant = space_for(space, classes=7, in_channels=1)
    assert base_space(variant) == space
    assert space_for(variant, classes=space.classes, in_channels=space.in_channels) == space
    assert find_space(variant.code) == find_space(variant.name) == variant


@pytest.mark.parametrize(
    "name",
    [
        "small28.c5",
        "small28.c0x3",
        "small28.cx",
        "small28.c5x3x1",
        "resnet",
        "small28.c5x3.c5x3",
        "",
    ],
)
def test_what_is_no_space_lists_those_there_are(name):
    with pytest.raises(ArchError, match="unknown space") as caught:
        find_space(name)
    assert "small28" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("small28.c1x1", "2 to 100000 classes, got 1"),
        ("small28.c900000x1", "2 to 100000 classes, got 900000"),
        ("small28.c5x4", "1 channel (grey) or 3 (RGB), got 4"),
    ],
)
def test_impossible_variants_say_the_rule(name, message):
    with pytest.raises(ArchError) as caught:
        find_space(name)
    assert message in caught.value.message

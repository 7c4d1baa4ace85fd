"""Architectures are canonical, checked, and survive their string form."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofatvm.arch import Arch, ArchSpace, StageSpec, make_divisible
from ofatvm.errors import ArchError
from ofatvm.spaces import SPACES, find_space, parse_arch

W10 = find_space("mbv3w1.0")
W12 = find_space("mbv3w1.2")
TOY = ArchSpace(
    name="toy",
    code="toy",
    stem_width=8,
    first_width=8,
    stages=(StageSpec(16, 2, "relu", False), StageSpec(24, 2, "h_swish", True)),
    head_width=32,
    feature_width=48,
    classes=10,
    resolutions=(28, 32),
    stem_stride=1,
    in_channels=1,
    kernels=(3, 5),
    expands=(2, 3),
    depths=(1, 2),
)
OFA = {
    "ks": [5, 7, 5, 5, 3, 3, 3, 7, 5, 5, 3, 7, 7, 3, 3, 3, 5, 5, 5, 5],
    "e": [4, 3, 4, 4, 4, 6, 3, 4, 4, 3, 4, 3, 3, 6, 6, 6, 4, 3, 4, 4],
    "d": [2, 3, 2, 4, 3],
}


def archs(space: ArchSpace) -> st.SearchStrategy[Arch]:
    """Any architecture of a space."""
    blocks = space.blocks
    return st.builds(
        space.arch,
        st.lists(st.sampled_from(space.kernels), min_size=blocks, max_size=blocks),
        st.lists(st.sampled_from(space.expands), min_size=blocks, max_size=blocks),
        st.lists(
            st.sampled_from(space.depths),
            min_size=len(space.stages),
            max_size=len(space.stages),
        ),
        st.sampled_from(space.resolutions),
    )


any_arch = st.one_of(archs(W10), archs(W12))


@given(any_arch)
def test_parse_reads_what_encode_wrote(arch: Arch) -> None:
    assert parse_arch(arch.encode()) == arch
    assert parse_arch(f"  {arch}\n") == arch


@given(archs(TOY))
def test_another_space_is_another_description(arch: Arch) -> None:
    assert TOY.parse(arch.encode()) == arch
    assert TOY.from_rows(TOY.to_rows([arch])) == [arch]


@given(st.lists(archs(W10), max_size=5))
def test_rows_round_trip(some: list[Arch]) -> None:
    rows = W10.to_rows(some)
    assert rows.shape == (len(some), W10.row_width)
    assert rows.dtype == np.int32
    assert W10.from_rows(rows) == some


@given(archs(W10), st.integers(0, 2**32))
def test_what_skipped_blocks_hold_is_forgotten(arch: Arch, seed: int) -> None:
    noise = np.random.default_rng(seed).choice([3, 5, 7], W10.blocks).tolist()
    kernels = [k or n for k, n in zip(arch.kernels, noise, strict=True)]
    assert W10.arch(kernels, [e or 6 for e in arch.expands], arch.depths, arch.resolution) == arch


@given(st.text(max_size=80))
def test_any_other_text_is_an_arch_error(text: str) -> None:
    try:
        arch = parse_arch(text)
    except ArchError:
        return
    assert isinstance(arch, Arch)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.dictionaries(st.sampled_from(["ks", "e", "d", "r", "wid", "x"]), inner)
        ),
        max_leaves=20,
    )
)
def test_any_other_json_is_an_arch_error(value: Any) -> None:
    if not isinstance(value, dict):
        value = {"ks": value, "e": value, "d": value}
    with pytest.raises(ArchError):
        parse_arch(json.dumps(value))


def test_ofa_json_is_understood() -> None:
    arch = parse_arch(json.dumps(OFA))
    assert arch.encode() == ("mbv3w1.0/224/54.73-34.36.33-54.53-73.36.36.36-54.53.54")
    assert parse_arch(json.dumps(OFA | {"r": [160], "wid": None})) == arch.at(160)
    assert parse_arch(json.dumps(OFA), W12).space is W12


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not an architecture"),
        ("mbv3w1.0", "not an architecture"),
        ("nonsense/224/33.33-33.33-33.33-33.33-33.33", "space"),
        ("mbv3w1.0/225/33.33-33.33-33.33-33.33-33.33", "resolution 225"),
        ("mbv3w1.0/99999/33.33-33.33-33.33-33.33-33.33", "resolution 99999"),
        ("mbv3w1.0/224/33.33-33.33-33.33-33.33", "5 stages"),
        ("mbv3w1.0/224/33-33.33-33.33-33.33-33.33", "stage 1"),
        ("mbv3w1.0/224/43.33-33.33-33.33-33.33-33.33", "kernel size of stage 1, block 1"),
        ("mbv3w1.0/224/33.33-33.35-33.33-33.33-33.33", "expand ratio of stage 2, block 2"),
        ("mbv3w1.0/224/33.33.33.33.33-33.33-33.33-33.33-33.33", "stage 1"),
        ("{", "not valid JSON"),
        ("{}", "missing"),
        (json.dumps(OFA | {"ks": [3]}), "20 kernel sizes"),
        (json.dumps(OFA | {"d": [2, 3]}), "5 depths"),
        (json.dumps(OFA | {"d": [2, 3, 2, 4, 9]}), "depth of stage 5"),
        (json.dumps(OFA | {"ks": "3"}), "whole numbers"),
        (json.dumps(OFA | {"e": [True] * 20}), "whole numbers"),
        (json.dumps(OFA | {"extra": 1}), "extra"),
        (json.dumps(OFA | {"wid": 1.2}), "wid"),
        ("{" * 100_000, "not valid JSON"),
    ],
)
def test_a_malformed_arch_gets_one_short_sentence(text: str, words: str) -> None:
    with pytest.raises(ArchError, match=words) as caught:
        parse_arch(text)
    assert len(caught.value.message) < 300
    assert "\n" not in caught.value.message


def test_an_arch_checks_itself() -> None:
    arch = W10.smallest()
    with pytest.raises(ArchError, match="skipped"):
        replace(arch, kernels=(3,) * 20)
    with pytest.raises(ArchError, match="resolution"):
        arch.at(100)
    assert hash(arch) == hash(W10.smallest())
    assert arch != W12.smallest()


def test_sizes_are_exact_integers() -> None:
    assert W10.size() == 21_758_655_492_572_485_851
    assert W12.size() == W10.size()
    assert TOY.size() == (4 + 16) ** 2


def test_widths_follow_the_multiplier() -> None:
    assert [stage.width for stage in W10.stages] == [24, 40, 80, 112, 160]
    assert (W10.stem_width, W10.head_width, W10.feature_width) == (16, 960, 1280)
    assert [stage.width for stage in W12.stages] == [32, 48, 96, 136, 192]
    assert (W12.stem_width, W12.head_width, W12.feature_width) == (24, 1152, 1536)
    assert make_divisible(11) == 16  # 8 would lose more than a tenth
    assert W10.resolutions == tuple(range(128, 225, 4))


def test_sampling_is_seeded_and_uniform() -> None:
    rows = W10.sample_rows(np.random.default_rng(0), 4000)
    assert np.array_equal(rows, W10.sample_rows(np.random.default_rng(0), 4000))
    depths = rows[:, 2 * W10.blocks : -1]
    for choice in (2, 3, 4):
        assert (depths == choice).mean() == pytest.approx(1 / 3, abs=0.02)
    always_there = rows[:, 0]
    for choice in (3, 5, 7):
        assert (always_there == choice).mean() == pytest.approx(1 / 3, abs=0.03)
    assert set(np.unique(rows[:, -1])) == set(W10.resolutions)
    assert len(W10.from_rows(rows[:50])) == 50


def test_a_space_can_be_restricted() -> None:
    assert W10.at(224, 160).resolutions == (160, 224)
    with pytest.raises(ArchError, match="resolution 300") as caught:
        W10.at(300)
    assert caught.value.hint == "the nearest is 224"


def test_spaces_are_found_by_name_and_code() -> None:
    for name, space in SPACES.items():
        assert find_space(name) is find_space(space.code) is space
    with pytest.raises(ArchError, match="unknown space"):
        find_space("resnet")


@pytest.mark.parametrize(
    "changes",
    [
        {"kernels": (3, 4)},
        {"kernels": ()},
        {"depths": (2, 1)},
        {"expands": (0, 3)},
        {"code": "a/b"},
        {"stages": ()},
    ],
)
def test_a_senseless_space_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ArchError):
        replace(TOY, **changes)

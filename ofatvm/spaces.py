"""The search spaces there are, and finding a space or an architecture by what a user typed.

A space is data: `ArchSpace` values in a table. Any of them can be had for other classes or image
channels: `small28.c5x3` is `small28` for five classes of RGB pictures.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ofatvm.arch import Arch, ArchSpace, StageSpec, make_divisible
from ofatvm.errors import ArchError, shorten

MAX_CLASSES = 100_000
CHANNELS = (1, 3)


def ofa_mobilenet_v3(name: str, code: str, *, width_multiplier: float) -> ArchSpace:
    """OFAMobileNetV3 as published with the OFA paper (ICLR 2020, arXiv 1908.09791)."""

    def width(base: int) -> int:
        return make_divisible(base * width_multiplier)

    stages = (
        StageSpec(width(24), 2, "relu", False),
        StageSpec(width(40), 2, "relu", True),
        StageSpec(width(80), 2, "h_swish", False),
        StageSpec(width(112), 1, "h_swish", True),
        StageSpec(width(160), 2, "h_swish", True),
    )
    return ArchSpace(
        name=name,
        code=code,
        stem_width=width(16),
        first_width=width(16),
        stages=stages,
        head_width=width(960),
        feature_width=width(1280),
        classes=1000,
        resolutions=tuple(range(128, 225, 4)),
    )


# For pictures of about 28 pixels. Nearly all work is done at 14x14 and below, so that training it
# takes a two-core machine less than an hour.
SMALL = ArchSpace(
    name="small28_d123_e234_k35",
    code="small28",
    stem_width=16,
    first_width=16,
    stages=(
        StageSpec(16, 1, "relu", False),
        StageSpec(32, 2, "relu", True),
        StageSpec(48, 1, "h_swish", True),
        StageSpec(64, 2, "h_swish", True),
    ),
    head_width=256,
    feature_width=256,
    classes=10,
    resolutions=(20, 24, 28),
    in_channels=1,
    kernels=(3, 5),
    expands=(2, 3, 4),
    depths=(1, 2, 3),
)

SPACES: dict[str, ArchSpace] = {
    space.name: space
    for space in (
        ofa_mobilenet_v3("ofa_mbv3_d234_e346_k357_w1.0", "mbv3w1.0", width_multiplier=1.0),
        ofa_mobilenet_v3("ofa_mbv3_d234_e346_k357_w1.2", "mbv3w1.2", width_multiplier=1.2),
        SMALL,
    )
}
# What architectures in OFA's JSON and published weight files are of, unless another is named.
OFA_SPACE = "ofa_mbv3_d234_e346_k357_w1.0"


def find_space(name: str) -> ArchSpace:
    """A space by its name or its code, perhaps with a suffix for other classes and channels.

    ArchError if there is none.
    """
    for space in SPACES.values():
        if name in (space.name, space.code):
            return space
    base, _, suffix = name.rpartition(".c")
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,2})", suffix)
    if match and base in {word for space in SPACES.values() for word in (space.name, space.code)}:
        return space_for(find_space(base), classes=int(match[1]), in_channels=int(match[2]))
    known = ", ".join(f"{space.name} ({space.code})" for space in SPACES.values())
    raise ArchError(
        f"unknown space {shorten(name)!r}",
        hint=f"known spaces: {known}; each also with .cCLASSESxCHANNELS behind it",
    )


def space_for(space: ArchSpace, *, classes: int, in_channels: int) -> ArchSpace:
    """The variant of a space for so many classes and image channels; itself if they are its own."""
    if not 2 <= classes <= MAX_CLASSES:
        raise ArchError(f"a space has 2 to {MAX_CLASSES} classes, got {classes}")
    if in_channels not in CHANNELS:
        raise ArchError(f"images have 1 channel (grey) or 3 (RGB), got {in_channels}")
    base = base_space(space)
    if (classes, in_channels) == (base.classes, base.in_channels):
        return replace(base, resolutions=space.resolutions)
    suffix = f".c{classes}x{in_channels}"
    return replace(
        base,
        name=base.name + suffix,
        code=base.code + suffix,
        classes=classes,
        in_channels=in_channels,
        resolutions=space.resolutions,
    )


def base_space(space: ArchSpace) -> ArchSpace:
    """The space of the table that a variant comes from."""
    for base in SPACES.values():
        if space.name == base.name or space.name.startswith(f"{base.name}.c"):
            return base
    raise ArchError(f"{space.name} is no variant of a known space")


def parse_arch(text: str, space: ArchSpace | None = None) -> Arch:
    """An `Arch` from its encoded string (any known space) or from OFA's JSON.

    JSON names no space, so it is read in `space`, or in OFA's own. An encoded string of
    another space than the one asked for is an ArchError.
    """
    if space is None:
        code = text.strip().split("/", 1)[0]
        try:
            space = find_space(code)
        except ArchError:
            space = SPACES[OFA_SPACE]
    return space.parse(text)

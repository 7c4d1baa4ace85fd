"""A schedule that one vector unit liked, as the nearest point of another's schedule space."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import replace

from ofatvm.compiler.schedule import ScheduleConfig
from ofatvm.compiler.space import VectorUnit


def translate(
    config: ScheduleConfig,
    made_for: VectorUnit,
    unit: VectorUnit,
    space: Container[ScheduleConfig],
) -> ScheduleConfig | None:
    """The schedule as it is, or with a tile of as many registers, or of as many channels.

    The first of these that is in `space`; None if none is. As it is, a schedule for narrower
    vectors leaves half of each wider one idle, and is often slower than the default.
    """
    scaled = max(1, config.lanes * unit.lanes // made_for.lanes)
    widths = [2**power for power in range(config.channels.bit_length())]
    versions = [config, replace(config, lanes=scaled)]
    versions += [
        replace(config, groups=config.channels // lanes, lanes=lanes)
        for lanes in sorted(widths, key=lambda lanes: abs(math.log2(lanes / unit.lanes)))
        if config.channels % lanes == 0
    ]
    return next((version for version in versions if version in space), None)

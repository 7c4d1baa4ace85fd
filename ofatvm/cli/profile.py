"""`ofatvm profile`: measure compiled architectures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.options import SEED, WholeNumber
from ofatvm.cli.render import Column, Result, table
from ofatvm.cli.setup_options import Wanted, setup_options
from ofatvm.cli.space_options import read_source, space_options
from ofatvm.errors import ArchError, UsageError

if TYPE_CHECKING:
    from ofatvm.target import Target

COLUMNS = (
    Column("latency_ms", "ms", lambda value: f"{value:.4g}"),
    Column("kind", "kind", left=True),
    Column("interval", "95 % interval"),
    Column("p90_ms", "p90", lambda value: f"{value:.4g}"),
    Column("visits", "visits"),
    Column("note", "note", left=True),
    Column("arch", "architecture", left=True),
)


KERNELS = (
    Column("ms", "ms simulated", lambda value: f"{value:.4f}"),
    Column("share", "share", lambda value: f"{value:.1%}"),
    Column("memory", "cache misses", lambda value: f"{value:.0%}"),
    Column("instructions", "k instr.", lambda value: f"{value / 1e3:.1f}"),
    Column("fma", "mul-add", lambda value: f"{value:.0%}"),
    Column("load", "loads", lambda value: f"{value:.0%}"),
    Column("store", "stores", lambda value: f"{value:.0%}"),
    Column("kernel", "kernel", left=True),
)


@click.command("profile", help="Measure compiled architectures on a target.")
@click.argument("archs", nargs=-1)
@click.option("--file", type=click.Path(path_type=Path), help="Architectures, one a line.")
@click.option(
    "--count",
    type=WholeNumber(1, 10_000),
    default=20,
    show_default=True,
    help="How many to draw from the space when none are given.",
)
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--final", "final", is_flag=True, help="Measure by the full protocol: 5 processes.")
@click.option("--fresh", is_flag=True, help="Measure anew what was measured before.")
@click.option("--kernels", is_flag=True, help="Show each kernel call; simulated devices only.")
@space_options
@setup_options()
@common_options
def command(
    run: Run,
    archs: tuple[str, ...],
    file: Path | None,
    count: int,
    seed: int,
    final: bool,
    fresh: bool,
    kernels: bool,
    supernet_name: str | None,
    space_name: str | None,
    resolution: int | None,
    wanted: Wanted,
) -> Result:
    """Measure and list."""
    import numpy as np

    from ofatvm.device.simulated import SimulatedDevice
    from ofatvm.device.timing import FINAL, SAMPLE
    from ofatvm.pipeline.breakdown import breakdown
    from ofatvm.pipeline.device_choice import SIMULATED
    from ofatvm.pipeline.devices import open_device
    from ofatvm.pipeline.measure import measure, require_some
    from ofatvm.store import Store

    source, given = read_source(archs, file, supernet_name, space_name, resolution)
    if len({arch.space.name for arch in given}) > 1:
        raise ArchError("the architectures are of several spaces", hint="profile one at a time")
    with (
        wanted.prepare(run, source.space.name, resolution) as setup,
        Store.open(run.workspace) as store,
    ):
        rng = np.random.default_rng(seed)
        chosen = given or setup.space.from_rows(setup.space.sample_rows(rng, count))
        if kernels and setup.device != SIMULATED:
            raise UsageError(
                "--kernels shows what was counted in a simulation",
                hint="add --device simulated",
            )
        with open_device(setup, store, fresh=fresh, on_event=run.on_event) as opened:
            if kernels:
                assert isinstance(opened, SimulatedDevice)
                return _kernels(setup.target, breakdown(setup, opened, chosen))
            found = measure(
                setup,
                store,
                opened,
                chosen,
                source="final" if final else "profile",
                protocol=FINAL if final else SAMPLE,
                seed=seed,
                on_event=run.on_event,
            )
        target = setup.target
    require_some(found)
    rows = []
    for m in found:
        row = asdict(m)
        row["visits"] = len(m.samples_ms)
        row["interval"] = None if m.ci_low_ms is None else f"{m.ci_low_ms:.4g}-{m.ci_high_ms:.4g}"
        row["note"] = m.error or ("unstable" if m.unstable else None)
        rows.append(row)
    shown = [{**asdict(m), "target_name": target.name} for m in found]
    return Result({}, lambda width: table(rows, COLUMNS, width), lines=shown)


def _kernels(target: Target, rows: list[dict[str, Any]]) -> Result:
    """Each kernel call, and what its time and its instructions are made of."""
    shown = [
        {
            **row,
            "memory": row["memory_ms"] / row["ms"],
            "fma": row["mix"].get("multiply-add", 0) / row["instructions"],
            "load": row["mix"].get("load", 0) / row["instructions"],
            "store": row["mix"].get("store", 0) / row["instructions"],
        }
        for row in rows
    ]
    return Result({}, lambda width: table(shown, KERNELS, width), lines=rows)

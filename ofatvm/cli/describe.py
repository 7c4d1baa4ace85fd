"""`ofatvm describe`: what architectures cost, without running them."""

from __future__ import annotations

from pathlib import Path

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.render import Column, Result, table
from ofatvm.cli.setup_options import Wanted, setup_options
from ofatvm.cli.space_options import read_source, space_options
from ofatvm.errors import UsageError
from ofatvm.events import Notice

COLUMNS = (
    Column("macs", "M MACs", lambda value: f"{value / 1e6:.1f}"),
    Column("params", "M params", lambda value: f"{value / 1e6:.2f}"),
    Column("weight_bytes", "MB", lambda value: f"{value / 1e6:.1f}"),
    Column("peak_memory_bytes", "peak MB", lambda value: f"{value / 1e6:.2f}"),
    Column("workloads", "workloads"),
    Column("coverage", "coverage", lambda value: f"{value:.0%}"),
    Column("predicted_top1_percent", "top-1 % predicted", lambda value: f"{value:.2f}"),
    Column("predicted_latency_ms", "ms predicted", lambda value: f"{value:.4g}"),
    Column("interval", "90 % interval"),
    Column("arch", "architecture", left=True),
)


@click.command("describe", help="Describe architectures without running them.")
@click.argument("archs", nargs=-1)
@click.option("--file", type=click.Path(path_type=Path), help="Architectures, one a line.")
@space_options
@setup_options()
@common_options
def command(
    run: Run,
    archs: tuple[str, ...],
    file: Path | None,
    supernet_name: str | None,
    space_name: str | None,
    resolution: int | None,
    wanted: Wanted,
) -> Result:
    """Describe each; a file in place of ARCHS works too."""
    from ofatvm.pipeline.describe import describe
    from ofatvm.pipeline.device_choice import NONE

    if not archs and file is None:
        raise UsageError("no architecture given", hint="give some, or --file FILE")
    source, parsed = read_source(archs, file, supernet_name, space_name, resolution)
    with wanted.prepare(run, source.space.name, resolution) as setup:
        rows = [item.to_dict() for item in describe(setup, parsed, source.supernet)]
        target, searched = setup.target, setup.device
    for row in rows:
        low, high = row["predicted_low_ms"], row["predicted_high_ms"]
        row["interval"] = None if low is None else f"{low:.4g}-{high:.4g}"
    context = {"target": target.name, "threads": target.threads}
    shown = [{**{k: v for k, v in row.items() if k != "interval"}, **context} for row in rows]
    if all(row["predicted_latency_ms"] is None for row in rows):
        text = f"no latency model for --device {searched} here yet: `ofatvm search` makes one"
        if searched == NONE:
            text = f"no latency model: nothing here runs code for {target.name}"
        run.on_event(Notice("info", text))
    return Result({}, lambda width: table(rows, COLUMNS, width), lines=shown)

"""`ofatvm report --cost`: what tuning took, as ratios to tuning the whole space once."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.options import THREADS, PositiveNumber
from ofatvm.cli.render import Column, Result, seconds_text, table
from ofatvm.errors import UsageError
from ofatvm.paths import data_dir

if TYPE_CHECKING:
    from ofatvm.pipeline.cost import CostReport

WIDTH = 80


def energy_text(joules: float) -> str:
    """An energy for people: 14 J, 27.0 kJ, 1.2 MJ."""
    for size, unit in ((1e6, "MJ"), (1e3, "kJ")):
        if joules >= 0.9995 * size:
            return f"{joules / size:.1f} {unit}"
    return f"{joules:.0f} J"


def ratio_text(ratio: float) -> str:
    """Three digits or fewer: 1.00, 0.134, 4e-04."""
    if ratio >= 0.1 or ratio == 0:
        return f"{ratio:.2f}"
    return f"{ratio:.3f}" if ratio >= 0.001 else f"{ratio:.0e}"


COLUMNS = (
    Column("what", "", left=True),
    Column("trials", "trials", "{:,}".format),
    Column("trials_ratio", "ratio", ratio_text),
    Column("cpu_s", "CPU", seconds_text),
    Column("cpu_ratio", "ratio", ratio_text),
    Column("wall_s", "wall", seconds_text),
    Column("energy_j", "energy", energy_text),
)


@click.command("report", help="Say what tuning cost, and what comes for free.")
@click.option("--cost", is_flag=True, help="What tuning the space took beside tuning each network.")
@click.option("--target", "target_text", default="host", show_default=True)
@click.option("--threads", type=THREADS, help="Threads the kernels run with. [default: all cores]")
@click.option(
    "--tuning-logs",
    type=click.Path(path_type=Path),
    default=Path("tuning_logs"),
    show_default=True,
    help="Folder of tuning records, by target.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="Folder of benchmark results. [default: those that ship]",
)
@click.option(
    "--watts-per-core",
    type=PositiveNumber("watts", 1e4),
    help="Reckon estimated energies with this. [default: as the ledger did]",
)
@common_options
def command(
    run: Run,
    cost: bool,
    target_text: str,
    threads: int | None,
    tuning_logs: Path,
    results: Path | None,
    watts_per_core: float | None,
) -> Result:
    """Read the ledger and the benchmarks' results; nothing is measured."""
    if not cost:
        raise UsageError(
            "report needs --cost, which is all it has for now", hint="ofatvm report --cost"
        )
    from ofatvm.pipeline.cost import cost_report
    from ofatvm.pipeline.setup import resolve_target

    report = cost_report(
        resolve_target(target_text, threads),
        [tuning_logs, data_dir("tuning_logs")],
        data_dir("results") if results is None else results,
        watts_per_core=watts_per_core,
    )
    return Result(asdict(report), lambda width: describe(report, width))


def describe(report: CostReport, width: int | None) -> str:
    """The report for people, in lines of at most 80 characters or the terminal's width."""
    width = min(width or WIDTH, WIDTH)
    parts = [
        f"cost of the records of {report.records_of}, {report.threads} threads",
        f"ratio: to the {report.baseline}",
        "",
        table([asdict(row) for row in report.rows], COLUMNS, width),
        "",
    ]
    for line in _lines(report):
        parts += textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(parts)


def _lines(report: CostReport) -> Iterator[str]:
    """What stands below the table."""
    if report.records_of != report.target:
        yield f"{report.records_of} is the nearest to {report.target} that was tuned from nothing"
    if report.baseline_coverage < 1:
        yield f"only {report.baseline_coverage:.1%} of the space's compute is tuned"
    if report.break_even_networks is not None:
        yield (
            f"break-even: from {report.break_even_networks} networks on, tuning the space once "
            f"takes less CPU time than tuning each alone (by trials: {report.break_even_by_trials})"
        )
    yield f"tuning took {report.seconds_per_trial:g} s a trial, all in"
    killed = f", {report.killed_runs} of them killed" if report.killed_runs else ""
    yield f"runs: {report.runs}{killed}"
    yield from (f"machine: {machine}" for machine in report.machines)
    yield f"energy: {'; '.join(report.energy_methods)}"
    for row in report.rows:
        if row.what.startswith(("first subnet", "next")):
            yield f"{row.what}: {row.detail}"
    if report.unaccounted_trials:
        yield (
            f"{report.unaccounted_trials} trials of the journal were made by no run in the ledger: "
            "the records cost more than is shown"
        )
    if report.damaged_lines:
        yield f"{report.damaged_lines} damaged lines of the ledger were skipped"
    yield from (f"left out: {note}" for note in report.notes)

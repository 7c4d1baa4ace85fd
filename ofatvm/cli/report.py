"""`ofatvm report`: a page of what a workspace found; or with --cost, what tuning took."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.options import THREADS, PositiveNumber
from ofatvm.cli.render import Column, Result, pairs, seconds_text, table
from ofatvm.errors import MissingInputError, UsageError, shorten
from ofatvm.paths import data_dir
from ofatvm.text import counted

PAGE_START, PAGE_LOOK = b"<!doctype html", 512

if TYPE_CHECKING:
    from ofatvm.pipeline.cost import CostReport

WIDTH = 80
COST_OPTIONS = ("target_text", "threads", "tuning_logs", "results", "watts_per_core")


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


@click.command("report", help="Write a page of what was found, or say costs.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The page.  [default: in the workspace]"
)
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
@click.pass_context
def command(
    context: click.Context,
    run: Run,
    out: Path | None,
    cost: bool,
    target_text: str,
    threads: int | None,
    tuning_logs: Path,
    results: Path | None,
    watts_per_core: float | None,
) -> Result:
    """Read the store, or the ledger and the benchmarks' results; nothing is measured."""
    if not cost:
        _refuse(context, COST_OPTIONS, "goes with --cost")
        return _page(run.workspace, out)
    _refuse(context, ("out",), "does not go with --cost, which writes no page")
    from ofatvm.pipeline.cost import cost_report
    from ofatvm.pipeline.setup import resolve_target

    report = cost_report(
        resolve_target(target_text, threads),
        [tuning_logs, data_dir("tuning_logs")],
        data_dir("results") if results is None else results,
        watts_per_core=watts_per_core,
    )
    return Result(asdict(report), lambda width: describe(report, width))


def _refuse(context: click.Context, names: Sequence[str], why: str) -> None:
    """UsageError if one of these options was given."""
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") != ParameterSource.DEFAULT
        if parameter.name in names and given:
            raise UsageError(f"{parameter.opts[0]} {why}", hint="ofatvm report --help")


def _check_page(path: Path) -> None:
    """UsageError unless a page can be written there, over nothing but an older one."""
    shown = shorten(str(path), 200)
    hint = "name a file, as report.html"
    if path.is_dir():
        raise UsageError(f"--out {shown} is a folder", hint=hint)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"--out {shown} is in no folder that can be written", hint=hint)
    if os.path.lexists(path):
        if not path.is_file():
            raise UsageError(f"--out {shown} is no ordinary file", hint=hint)
        with path.open("rb") as file:
            if not file.read(PAGE_LOOK).lstrip().lower().startswith(PAGE_START):
                raise UsageError(f"--out {shown} is there and is no HTML page", hint=hint)


def _page(workspace: Path, out: Path | None) -> Result:
    """Write the page, and say what is on it."""
    from ofatvm.bundle.typed_json import encoded
    from ofatvm.files import replace_file
    from ofatvm.report.page import gather, render
    from ofatvm.store import FILE_NAME, Store

    report = None
    if (workspace / FILE_NAME).is_file():
        with Store.read(workspace) as store:
            report = gather(store, workspace)
    if report is None or report.empty:
        raise MissingInputError(
            f"there is nothing to report: workspace {workspace} has no measurements",
            hint="make some with `ofatvm search`, or name another --workspace",
        )
    path = workspace / "report.html" if out is None else out
    if out is None and not os.access(workspace, os.W_OK, effective_ids=True):
        raise UsageError(
            f"the page cannot be written into {shorten(str(workspace), 200)}",
            hint="--out FILE writes it elsewhere, as --out report.html",
        )
    _check_page(path)
    # Names of files may hold bytes that are no text.
    replace_file(path, render(report).encode("utf-8", "backslashreplace"))
    searches = [section.outcome for section in report.sections]
    data = {
        "page": str(path),
        "searches": [
            {
                "target": o.target,
                "threads": o.threads,
                "space": o.space,
                "when": o.when,
                "pick": encoded(o.pick),
            }
            for o in searches
        ],
        "measurements": sum(row.holding.count for row in report.held),
    }
    facts = {**data, "searches": len(searches) or "none has finished yet"}
    return Result(data, lambda width: pairs(facts, width))


def describe(report: CostReport, width: int | None) -> str:
    """The report for people, in lines of at most 80 characters or the terminal's width."""
    width = min(width or WIDTH, WIDTH)
    parts = [
        f"cost of the records of {report.records_of}, {counted(report.threads, 'thread')}",
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
            f"break-even: from {counted(report.break_even_networks, 'network')} on, tuning the "
            "space once takes less CPU time than tuning each alone (by trials: "
            f"{report.break_even_by_trials})"
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
            f"{counted(report.unaccounted_trials, 'trial')} of the journal made by no run in the "
            "ledger: the records cost more than is shown"
        )
    if report.damaged_lines:
        yield f"{counted(report.damaged_lines, 'damaged line')} of the ledger skipped"
    yield from (f"left out: {note}" for note in report.notes)

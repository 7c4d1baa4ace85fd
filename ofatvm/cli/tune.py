"""`ofatvm tune`: tune every kernel of a space on a target."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofatvm.text import counted

if TYPE_CHECKING:
    from ofatvm.pipeline.setup import Setup

from ofatvm.arch import ArchSpace
from ofatvm.cli.main import Run, common_options
from ofatvm.cli.options import COUNT, DURATION, RESOLUTION, SEED
from ofatvm.cli.render import Result, pairs, seconds_text
from ofatvm.cli.setup_options import Wanted, setup_options
from ofatvm.cli.space_options import find_source
from ofatvm.errors import UsageError

EPILOG = """Where a sibling (the same CPU with other threads, or a family such as x86-64-v3) has
records, tuning starts from them and needs fewer trials. Even --trials-per-workload 1 measures each
borrowed record beside the default schedule and keeps the faster. A GPU's kernels and those of
--ir relay have no siblings: their first trial is the default schedule. A GPU is tuned on its
boards, with --device rpc://HOST:PORT/KEY."""


FEW_RESOLUTIONS = 4


@click.command("tune", help="Tune the kernels of a space on a target.", epilog=EPILOG)
@setup_options()
@click.option("--space", "space_name", help="[default: that of the shipped supernet]")
@click.option(
    "--resolution",
    "resolutions",
    type=RESOLUTION,
    multiple=True,
    help="May be given several times. [default: all of a space with few, else the largest]",
)
@click.option(
    "--trials-per-workload",
    type=COUNT,
    default=64,
    show_default=True,
    help="In total, over all runs.",
)
@click.option(
    "--time-budget", type=DURATION, help="For trials and their closing measurement, as 2h."
)
@click.option(
    "--from-scratch", is_flag=True, help="Take no schedules and trials from sibling targets."
)
@click.option(
    "--import-log",
    type=click.Path(path_type=Path),
    help="AutoTVM log whose trials are taken over first; with --ir relay.",
)
@click.option("--seed", type=SEED, default=0, show_default=True)
@common_options
def command(
    run: Run,
    space_name: str | None,
    resolutions: tuple[int, ...],
    trials_per_workload: int,
    time_budget: float | None,
    wanted: Wanted,
    from_scratch: bool,
    import_log: Path | None,
    seed: int,
) -> Result:
    """Tune and report what the journal holds."""
    from ofatvm.pipeline.tune import tune_space, tuning_folder
    from ofatvm.pipeline.tune_gpu import tune_gpu_space

    if import_log is not None and wanted.ir != "relay":
        raise UsageError("--import-log takes AutoTVM's logs", hint="add --ir relay")
    space = find_source(None, space_name).space
    for resolution in resolutions:
        space.check_resolution(resolution)
    chosen = tuple(dict.fromkeys(resolutions)) or default_resolutions(space)
    with wanted.prepare(run, space.name, chosen[0]) as setup:
        if wanted.ir == "relay":
            return _tune_relay(
                run, setup, chosen, trials_per_workload, time_budget, import_log, seed
            )
        tuned = tune_gpu_space if setup.gpu else partial(tune_space, from_scratch=from_scratch)
        summary, covered, records = tuned(
            setup,
            chosen,
            trials_per_workload=trials_per_workload,
            time_budget_s=math.inf if time_budget is None else time_budget,
            seed=seed,
            on_event=run.on_event,
        )
        folder = tuning_folder(setup)
    data = {
        "target": setup.target.name,
        "fingerprint": setup.target.fingerprint,
        "folder": str(folder),
        "resolutions": list(chosen),
        "siblings": [
            {"target": sibling.name, "records": sibling.records, "trials": sibling.trials}
            for sibling in summary.siblings
        ],
        "coverage": covered,
        "records": records,
        "workloads": summary.workloads,
        "complete_workloads": summary.complete,
        "new_trials": summary.new_trials,
        "trials": summary.trials,
        "failed_builds": summary.build_failures,
        "failed_runs": summary.run_failures,
        "disturbed_trials": summary.disturbed,
        "seconds": round(summary.seconds, 1),
    }
    text = {
        "target": setup.target.name,
        "workloads": f"{summary.complete} of {summary.workloads} have all their trials",
        "trials": f"{summary.trials:,} in total, {summary.new_trials} new in "
        + seconds_text(summary.seconds),
        "failed": f"{counted(summary.build_failures, 'build')}, "
        + counted(summary.run_failures, "run"),
        "disturbed": counted(summary.disturbed, "trial")
        + " timed again because the machine was busy",
        "coverage": f"{covered:.1%} of the space's compute",
        "records": f"{records} in {folder}",
    }
    if summary.siblings:
        text["started from"] = "; ".join(map(str, summary.siblings))
    return Result(data, lambda width: pairs(text, width))


def _tune_relay(
    run: Run,
    setup: Setup,
    resolutions: tuple[int, ...],
    trials: int,
    time_budget: float | None,
    import_log: Path | None,
    seed: int,
) -> Result:
    """Tune AutoTVM's templates and report what its log holds."""
    from ofatvm.pipeline.tune_relay import tune_relay_space
    from ofatvm.tuning.relay_records import relay_folder

    summary, covered, records = tune_relay_space(
        setup,
        resolutions,
        trials_per_task=trials,
        time_budget_s=math.inf if time_budget is None else time_budget,
        import_from=import_log,
        seed=seed,
        on_event=run.on_event,
    )
    folder = relay_folder(setup.tuning_logs, setup.target)
    data = {
        "target": setup.target.name,
        "fingerprint": setup.target.fingerprint,
        "ir": setup.ir,
        "folder": str(folder),
        "resolutions": list(resolutions),
        "coverage": covered,
        "records": records,
        "tasks": summary.tasks,
        "complete_tasks": summary.complete,
        "new_trials": summary.new_trials,
        "closing_trials": summary.closing_trials,
        "trials": summary.trials,
        "failed": summary.failures,
        "disturbed_trials": summary.disturbed,
        "seconds": round(summary.seconds, 1),
    }
    text = {
        "target": f"{setup.target.name}, through Relay",
        "tasks": f"{summary.complete} of {summary.tasks} have all their trials",
        "trials": f"{summary.trials:,} in the log, {summary.new_trials} new in "
        + seconds_text(summary.seconds),
        "closing": f"{summary.closing_trials} of the new ones timed the fastest again",
        "failed": str(summary.failures),
        "disturbed": counted(summary.disturbed, "trial")
        + " timed again because the machine was busy",
        "coverage": f"{covered:.1%} of the space's compute",
        "records": f"{records} in {folder}",
    }
    return Result(data, lambda width: pairs(text, width))


def default_resolutions(space: ArchSpace) -> tuple[int, ...]:
    """All of a space that has few, so that all of it is covered; else the largest alone."""
    few = len(space.resolutions) <= FEW_RESOLUTIONS
    return space.resolutions if few else (space.resolutions[-1],)

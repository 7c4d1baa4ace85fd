"""`ofatvm verify`: check a bundle, then run and time it."""

from __future__ import annotations

from pathlib import Path

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.options import DURATION, THREADS
from ofatvm.cli.render import Column, Result, pairs, table

COLUMNS = (
    Column("name", "check", left=True),
    Column("status", "status", left=True),
    Column("detail", "detail", left=True),
)


@click.command("verify", help="Check a bundle: files, digests, outputs, latency.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--no-run", is_flag=True, help="Check everything that needs no execution.")
@click.option("--threads", type=THREADS, help="Threads to run with.  [default: the manifest's]")
@click.option(
    "--timeout", type=DURATION, default="60s", show_default=True, help="Limit for the run."
)
@common_options
def command(run: Run, bundle: Path, no_run: bool, threads: int | None, timeout: float) -> Result:
    """Verify and report."""
    from ofatvm.bundle.verify import VerifyReport, verify_bundle

    report = verify_bundle(
        bundle, run=not no_run, threads=threads, timeout_s=timeout, on_event=run.on_event
    )
    data = report.to_dict()

    def text(report: VerifyReport, width: int | None) -> str:
        latency = report.manifest.latency
        untrained = report.manifest.weights.source == "untrained"
        facts = {
            "bundle": report.bundle,
            "arch": report.manifest.arch,
            "target": f"{report.manifest.target.name} ({report.manifest.target.fingerprint})",
            "weights": "untrained" if untrained else report.manifest.weights.detail,
            "latency named": f"{latency.value_ms:.3g} ms, {latency.kind} on {latency.device}"
            if latency
            else None,
            "verified when made": report.manifest.verified,
        }
        verdict = "verified" if report.ran else "sound, as far as it goes without running it"
        if report.emulator:
            verdict = f"verified under {report.emulator}"
        return "\n\n".join([pairs(facts, width), table(data["checks"], COLUMNS, width), verdict])

    return Result(data, lambda width: text(report, width))

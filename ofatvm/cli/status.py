"""`ofatvm status`: what a workspace holds, and the command to type next."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.render import Column, Result, pairs, table

COLUMNS = (
    Column("space", "space", left=True),
    Column("target", "target", lambda text: text[:12], left=True),
    Column("kind", "kind", left=True),
    Column("source", "for", left=True),
    Column("threads", "threads"),
    Column("count", "measurements"),
    Column("failed", "failed"),
    Column("newest", "newest", lambda text: text[:16].replace("T", " "), left=True),
)


@click.command("status", help="Say what a workspace holds and what comes next.")
@common_options
def command(run: Run) -> Result:
    """Look into the workspace without making one."""
    data = survey(run.workspace)
    return Result(data, lambda width: describe(data, width))


def survey(workspace: Path) -> dict[str, Any]:
    """Measurements, runs and bundles of a workspace, and the next command."""
    from ofatvm.store import FILE_NAME, Store

    holdings: list[dict[str, Any]] = []
    runs: list[str] = []
    if (workspace / FILE_NAME).exists():
        with Store.open(workspace) as store:
            holdings = [asdict(holding) for holding in store.holdings()]
            runs = store.runs()
    manifests = [
        path
        for path in workspace.glob("**/manifest.json")
        # What a killed command left half-moved has a hidden name.
        if not any(part.startswith(".") for part in path.relative_to(workspace).parts)
    ]
    manifests.sort(key=lambda path: (path.stat().st_mtime_ns, path))
    bundles = [str(path.parent) for path in manifests]
    where = "" if workspace == Path(".ofatvm") else f" --workspace {shlex.quote(str(workspace))}"
    search = f"ofatvm search --target host{where}"
    return {
        "workspace": str(workspace),
        "exists": workspace.is_dir(),
        "measurements": holdings,
        "runs": runs,
        "bundles": bundles,
        "next": f"ofatvm verify {shlex.quote(bundles[-1])}" if bundles else search,
    }


def describe(data: dict[str, Any], width: int | None) -> str:
    """The survey for people."""
    if not data["exists"]:
        return f"{data['workspace']} does not exist yet\nnext: {data['next']}"
    total = sum(holding["count"] for holding in data["measurements"])
    parts = [
        pairs(
            {
                "workspace": data["workspace"],
                "measurements": total,
                "runs": ", ".join(data["runs"]) or "none",
                "bundles": ", ".join(data["bundles"]) or "none",
            }
        )
    ]
    if data["measurements"]:
        parts.append(table(data["measurements"], COLUMNS, width))
    return "\n\n".join([*parts, f"next: {data['next']}"])

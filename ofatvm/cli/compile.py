"""`ofatvm compile`: ship one architecture."""

from __future__ import annotations

from pathlib import Path

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.options import SEED
from ofatvm.cli.render import Result, pairs
from ofatvm.cli.shipped import accuracy_text, agreement_text, next_steps
from ofatvm.cli.space_options import read_source, target_options
from ofatvm.events import Notice


@click.command("compile", help="Ship one architecture as a bundle.")
@click.option("--arch", "text", required=True, help="Our string or OFA's JSON.")
@click.option("--weights", type=click.Path(path_type=Path), help="Supernet weights file.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Bundle folder.  [default: in the workspace]"
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of untrained weights.")
@target_options
@common_options
def command(
    run: Run,
    text: str,
    weights: Path | None,
    out: Path | None,
    seed: int,
    target_text: str,
    threads: int | None,
    supernet_name: str | None,
    space_name: str | None,
    resolution: int | None,
    tuning_logs: Path,
) -> Result:
    """Compile, check against PyTorch, measure where the code runs, and write the bundle."""
    from ofatvm.device.timing import SAMPLE
    from ofatvm.pipeline.describe import predicted_accuracy
    from ofatvm.pipeline.measure import local_device, measure
    from ofatvm.pipeline.setup import prepare, runs_here
    from ofatvm.pipeline.ship import check_before, ship, shipped_facts
    from ofatvm.store import Store

    source, [arch] = read_source((text,), None, supernet_name, space_name, resolution, weights)
    check_before(out, source.weights, source.space, source.supernet)
    with prepare(
        target_text,
        space_name=source.space.name,
        resolution=arch.resolution,
        workspace=run.workspace,
        threads=threads,
        tuning_logs=tuning_logs,
        on_event=run.on_event,
    ) as setup:
        measurement = None
        if runs_here(setup.target):
            with Store.open(run.workspace) as store, local_device(setup, store) as device:
                measurement = measure(
                    setup,
                    store,
                    device,
                    [arch],
                    source="profile",
                    protocol=SAMPLE,
                    on_event=run.on_event,
                )[0]
        if measurement is not None and measurement.error:
            run.on_event(Notice("warning", f"it could not be measured: {measurement.error}"))
        name = f"{setup.target.name}-{arch.encode().replace('/', '_')}"
        predicted = predicted_accuracy([arch], source.supernet)[0]
        bundle = ship(
            setup,
            arch,
            out or run.workspace / "bundles" / name,
            weights=source.weights,
            seed=seed,
            supernet=source.supernet,
            measurement=measurement if measurement and not measurement.error else None,
            accuracy_percent=predicted,
            on_event=run.on_event,
        )
        target = setup.target
    latency = None if measurement is None else measurement.latency_ms
    data = {
        "arch": arch.encode(),
        "target": target.name,
        **shipped_facts(bundle),
        "predicted_accuracy_percent": predicted,
        "latency_ms": latency,
        "latency_kind": None if measurement is None else measurement.kind,
        "bundle": str(bundle),
    }
    facts = {
        "arch": data["arch"],
        "target": data["target"],
        "weights": data["weights"],
        "accuracy": accuracy_text(data["accuracy"]),
        "agreement": agreement_text(data["agreement"]),
        "latency": None
        if latency is None
        else f"{latency:.4g} ms, measured, {target.threads} threads",
        "bundle": data["bundle"],
        **next_steps(bundle),
    }
    return Result(data, lambda width: pairs(facts))

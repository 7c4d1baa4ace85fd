"""`ofatvm compile`: ship one architecture."""

from __future__ import annotations

from pathlib import Path

import click

from ofatvm.cli.main import Run, common_options
from ofatvm.cli.options import SEED
from ofatvm.cli.render import Result, pairs
from ofatvm.cli.setup_options import Wanted, setup_options
from ofatvm.cli.shipped import accuracy_text, agreement_text, next_steps, verified_text
from ofatvm.cli.space_options import read_source, space_options
from ofatvm.errors import DeviceError, UsageError, shorten
from ofatvm.events import Notice
from ofatvm.text import counted


@click.command("compile", help="Ship one architecture as a bundle.")
@click.option("--arch", "text", required=True, help="Our string or OFA's JSON.")
@click.option("--weights", type=click.Path(path_type=Path), help="Supernet weights file.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Bundle folder.  [default: in the workspace]"
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of untrained weights.")
@space_options
@setup_options()
@common_options
def command(
    run: Run,
    text: str,
    weights: Path | None,
    out: Path | None,
    seed: int,
    supernet_name: str | None,
    space_name: str | None,
    resolution: int | None,
    wanted: Wanted,
) -> Result:
    """Compile, check against PyTorch, take its latency on the device, and write the bundle."""
    from ofatvm.device.timing import SAMPLE
    from ofatvm.pipeline.describe import predicted_accuracy
    from ofatvm.pipeline.devices import open_device
    from ofatvm.pipeline.measure import measure
    from ofatvm.pipeline.ship import check_before, ship, shipped_facts
    from ofatvm.store import Store

    source, archs = read_source((text,), None, supernet_name, space_name, resolution, weights)
    if len(archs) != 1:
        raise UsageError(
            f"--arch takes one architecture, {shorten(text, 80)} holds {len(archs)}",
            hint="compile them one by one",
        )
    [arch] = archs
    check_before(out, source.weights, source.space, source.supernet)
    with wanted.prepare(run, source.space.name, arch.resolution) as setup:
        measurement = None
        try:
            with (
                Store.open(run.workspace) as store,
                open_device(setup, store, on_event=run.on_event) as opened,
            ):
                measurement = measure(
                    setup,
                    store,
                    opened,
                    [arch],
                    source="profile",
                    protocol=SAMPLE,
                    on_event=run.on_event,
                )[0]
        except DeviceError as error:
            # Nobody asked for this device: a bundle without a latency is better than none.
            if wanted.device != "auto":
                raise
            run.on_event(Notice("warning", f"no latency: {error.message}"))
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
        "ir": wanted.ir,
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
        "verified": verified_text(data["verified"]),
        "latency": None
        if latency is None
        else f"{latency:.4g} ms, {data['latency_kind']}, {counted(target.threads, 'thread')}",
        "bundle": data["bundle"],
        **next_steps(bundle, wanted.ir),
    }
    return Result(data, lambda width: pairs(facts, width))

"""Shipping: one architecture with its weights as a checked bundle."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from ofatvm.arch import Arch, ArchSpace
from ofatvm.bundle.manifest import Accuracy, Latency, Manifest, TensorSpec
from ofatvm.bundle.snapshot import read_manifest
from ofatvm.bundle.write import check_destination, check_labels, write_bundle
from ofatvm.compiler.link import find_linker, linked_triple
from ofatvm.compiler.plan import kernel_calls
from ofatvm.compiler.relax import build_model
from ofatvm.device.bundle_runner import run_bundle
from ofatvm.device.cpu_features import needed_features
from ofatvm.errors import BundleError
from ofatvm.events import Event, Notice, StageFinished, StageStarted, ignore
from ofatvm.files import scratch
from ofatvm.graph import operator_graph, totals
from ofatvm.measurement import Measurement
from ofatvm.pipeline.contents import file_contents, supernet_contents
from ofatvm.pipeline.device_choice import LOCAL
from ofatvm.pipeline.examine import Examined, examine
from ofatvm.pipeline.gpu import traces_of
from ofatvm.pipeline.prove import prove
from ofatvm.pipeline.relay import build_through_relay, road_versions
from ofatvm.pipeline.setup import Setup, require_supernet_file
from ofatvm.pipeline.ship_gpu import build_for_gpu
from ofatvm.supernet.folder import SupernetFolder
from ofatvm.tuning.workloads import subnet_workloads

RUN_TIMEOUT_S = 120.0
COMPARE_CALLS, COMPARE_MS = 100, 300.0  # a core takes some time to reach its full speed
SLOWER = 1.15
CALL_MS = 0.02  # what a call through the VM and from Python adds, at most


def ship(
    setup: Setup,
    arch: Arch,
    out: Path,
    *,
    weights: Path | None,
    seed: int,
    supernet: SupernetFolder | None = None,
    measurement: Measurement | None = None,
    accuracy_percent: float | None = None,
    replace: bool = True,
    on_event: Callable[[Event], None] = ignore,
) -> Path:
    """Compile `arch` with its weights, check it against PyTorch, and write the bundle to `out`.

    Weights are those of a trained `supernet`, of a weight file, or drawn from the seed. A module
    whose output differs from PyTorch's by more than the bundle's tolerance, on the sample picture
    or on random images, is not shipped: CompileError. So is one that names other classes than
    PyTorch for the supernet's held-out images, on which its accuracy is measured; without a
    supernet, `accuracy_percent` is what the accuracy model predicts. Code for another machine runs
    under qemu-user; without it, and for a GPU, the bundle is written, too, and says that it was not
    run.
    """
    require_supernet_file(weights)
    find_linker(linked_triple(setup.target))
    check_destination(out, replace=replace)
    if out.exists() and any(out.iterdir()):
        on_event(Notice("info", f"the bundle that is in {out} will be replaced"))
    started = monotonic()
    on_event(StageStarted("ship", None, arch.encode()))
    if supernet is None:
        contents = file_contents(arch, weights, seed)
    else:
        contents = supernet_contents(arch, supernet)
    graph = operator_graph(arch)
    cost = totals(graph)
    expected = contents.subnet.run(contents.sample)
    with scratch("ship") as folder:
        model = folder / "model.so"
        notes: tuple[str, ...] = ()
        if setup.gpu:
            proof, notes = build_for_gpu(
                graph,
                contents.subnet.folded,
                setup.target,
                model,
                traces_of(setup, [arch]),
                on_event=on_event,
            )
        else:
            if setup.ir == "relay":
                notes = build_through_relay(setup, graph, contents.subnet.folded, model)
            else:
                workloads = (call.workload for call in kernel_calls(graph))
                kernels = setup.relax_library.require(workloads)
                build_model(graph, kernels, contents.subnet.folded, setup.target, model)
            proof = prove(
                model,
                contents,
                setup.target,
                macs=cost.macs,
                seed=seed,
                ir=setup.ir,
                supernet=supernet,
                on_event=on_event,
            )
        if proof.here and setup.device == LOCAL:
            _compare_latency(model, contents.sample, setup, measurement, on_event)
        agreement, examined = proof.agreement, None
        if supernet is not None:
            examined = examine(
                contents, supernet, model if proof.here else None, setup.target.threads, setup.ir
            )
            agreement = examined.agreement or agreement
        manifest = Manifest(
            arch=arch.encode(),
            space=arch.space.name,
            resolution=arch.resolution,
            weights=contents.weights,
            inputs=(TensorSpec(name="x", shape=contents.sample.shape, layout="NHWC"),),
            outputs=(TensorSpec(name="logits", shape=expected.shape, layout="NC"),),
            preprocessing=contents.preprocessing,
            target=setup.target,
            cpu_features=needed_features(setup.target),
            versions=road_versions(setup.ir) | {"torch": metadata.version("torch")},
            latency=None if measurement is None else Latency.of(measurement),
            accuracy=_accuracy(examined, accuracy_percent),
            agreement=agreement,
            verified=proof.verified,
            notes=notes,
            ir=setup.ir,
            macs=cost.macs,
            params=cost.params,
            coverage=setup.coverage(subnet_workloads(arch)),
            seeds={"weights": seed} if supernet is None else {},
        )
        write_bundle(
            out,
            model=model,
            manifest=manifest,
            sample_input=contents.sample,
            sample_output=expected,
            sample_image=contents.png,
            labels=contents.labels,
            licence=contents.licence,
            replace=replace,
        )
    on_event(StageFinished("ship", str(out), monotonic() - started))
    return out


def bundle_name(key: str, weights: Path | None) -> str:
    """The folder of a bundle that got no name: what was searched for, and with which weights."""
    if weights is None:
        return key
    return f"{key}-{hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}"


def shipped_facts(bundle: Path) -> dict[str, Any]:
    """What a bundle says of its weights, its accuracy, and its agreement with PyTorch."""
    manifest = read_manifest(bundle)
    weights, accuracy, agreement = manifest.weights, manifest.accuracy, manifest.agreement
    return {
        "weights": "untrained" if weights.source == "untrained" else weights.detail,
        "accuracy": None if accuracy is None else asdict(accuracy),
        "agreement": None if agreement is None else asdict(agreement),
        "verified": None if manifest.verified is None else asdict(manifest.verified),
    }


def check_before(
    out: Path | None,
    weights: Path | None,
    space: ArchSpace,
    supernet: SupernetFolder | None = None,
) -> None:
    """Raise before hours of work what `ship` would raise after them.

    Tries to write beside `out`, and reads the whole weight file, or all of the supernet's folder.
    """
    if out is not None:
        check_destination(out, replace=True)
        try:
            parent = out.absolute().parent
            parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".ofatvm-", dir=parent):
                pass
        except OSError as error:
            raise BundleError(
                f"cannot write the bundle {out}: {error.strerror}",
                hint="choose a folder that can be written",
            ) from None
    if supernet is not None:
        check_labels(supernet.classes)
        for read in (supernet.calibration, supernet.evaluation, supernet.samples):
            read()
        weights = supernet.weights
    if weights is not None:
        require_supernet_file(weights)
        from ofatvm.supernet.checkpoint import load_weights

        load_weights(weights, space)


def _compare_latency(
    model: Path,
    sample: np.ndarray,
    setup: Setup,
    measurement: Measurement | None,
    on_event: Callable[[Event], None],
) -> None:
    """Say so if the module that ships is slower than the program that was measured."""
    if measurement is None or measurement.latency_ms is None:
        return
    threads = setup.target.threads
    calls = max(COMPARE_CALLS, int(COMPARE_MS / measurement.latency_ms))
    run = run_bundle(
        model, sample, threads=threads, timeout_s=RUN_TIMEOUT_S, calls=calls, ir=setup.ir
    )
    shipped = float(np.median(run.samples_ms))
    if shipped > SLOWER * measurement.latency_ms + CALL_MS:
        on_event(
            Notice(
                "warning",
                f"the shipped module took {shipped:.3g} ms in a short run, the front says "
                f"{measurement.latency_ms:.3g} ms; was the machine busy?",
            )
        )


def _accuracy(examined: Examined | None, predicted_percent: float | None) -> Accuracy | None:
    if examined is not None:
        return examined.accuracy
    if predicted_percent is None:
        return None
    return Accuracy(
        top1_percent=predicted_percent,
        kind="predicted",
        on="ImageNet validation set, with the published weights of this space; not measured with "
        "the weights in this bundle",
    )

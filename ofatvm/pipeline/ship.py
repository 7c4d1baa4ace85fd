"""Shipping: one architecture with its weights as a checked bundle."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from collections.abc import Callable
from importlib import metadata
from io import BytesIO
from pathlib import Path
from time import monotonic

import numpy as np

from ofatvm.arch import Arch, ArchSpace
from ofatvm.bundle.manifest import (
    Accuracy,
    Latency,
    Manifest,
    Preprocessing,
    TensorSpec,
    Weights,
)
from ofatvm.bundle.snapshot import read_manifest
from ofatvm.bundle.verify import compare
from ofatvm.bundle.write import check_destination, write_bundle
from ofatvm.compiler.plan import kernel_calls
from ofatvm.compiler.relax import build_model
from ofatvm.device.bundle_runner import run_bundle
from ofatvm.device.cpu_features import needed_features
from ofatvm.errors import BundleError, CompileError, OfatvmError, TargetError
from ofatvm.events import Event, Notice, StageFinished, StageStarted, ignore
from ofatvm.graph import operator_graph, totals
from ofatvm.measurement import Measurement
from ofatvm.paths import data_dir
from ofatvm.pipeline.setup import Setup, require_supernet_file, runs_here
from ofatvm.supernet import MEAN, STD
from ofatvm.target import Target
from ofatvm.tuning.workloads import coverage, subnet_workloads

RESIZE_RATIO = 256 / 224
RUN_TIMEOUT_S = 120.0
CHECK_IMAGES = 4
COMPARE_CALLS = 100
SLOWER = 1.15


def ship(
    setup: Setup,
    arch: Arch,
    out: Path,
    *,
    weights: Path | None,
    seed: int,
    measurement: Measurement | None = None,
    accuracy_percent: float | None = None,
    replace: bool = True,
    on_event: Callable[[Event], None] = ignore,
) -> Path:
    """Compile `arch` with its weights, check it against PyTorch, and write the bundle to `out`.

    A module whose output differs from PyTorch's by more than the bundle's tolerance, on the sample
    picture or on random images, is not shipped: CompileError.
    """
    require_supernet_file(weights)
    require_linkable(setup.target)
    check_destination(out, replace=replace)
    if out.exists() and any(out.iterdir()):
        on_event(Notice("info", f"the bundle that is in {out} will be replaced"))
    started = monotonic()
    on_event(StageStarted("ship", None, arch.encode()))
    from ofatvm.supernet.numpy_io import subnet_weights

    subnet = subnet_weights(arch, weights=weights, seed=seed)
    graph = operator_graph(arch)
    kernels = setup.library.require(call.workload for call in kernel_calls(graph))
    preprocessing = Preprocessing(
        resize=round(arch.resolution * RESIZE_RATIO), crop=arch.resolution, mean=MEAN, std=STD
    )
    png, sample = sample_image(preprocessing)
    expected = subnet.run(sample)
    with tempfile.TemporaryDirectory(prefix="ofatvm-ship-") as folder:
        model = Path(folder) / "model.so"
        build_model(graph, kernels, subnet.folded, setup.target, model)
        if runs_here(setup.target):
            rng = np.random.default_rng(seed)
            noise = rng.standard_normal((CHECK_IMAGES, *sample.shape[1:]), dtype=np.float32)
            for image in (sample, *noise[:, None]):
                _check(model, image, subnet.run(image), setup)
            _compare_latency(model, sample, setup, measurement, on_event)
        else:
            on_event(
                Notice("warning", f"not run here: code for {setup.target.name} needs its own CPU")
            )
        cost = totals(graph)
        uses = subnet_workloads(arch)
        manifest = Manifest(
            arch=arch.encode(),
            space=arch.space.name,
            resolution=arch.resolution,
            weights=_weights(subnet.origin, weights, seed),
            inputs=(TensorSpec(name="x", shape=sample.shape, layout="NHWC"),),
            outputs=(TensorSpec(name="logits", shape=expected.shape, layout="NC"),),
            preprocessing=preprocessing,
            target=setup.target,
            cpu_features=needed_features(setup.target),
            versions={
                name: metadata.version(name)
                for name in ("ofatvm", "apache-tvm", "apache-tvm-ffi", "torch")
            },
            latency=None if measurement is None else Latency.of(measurement),
            accuracy=_accuracy(accuracy_percent),
            macs=cost.macs,
            params=cost.params,
            coverage=coverage(uses, setup.records.configs),
            seeds={"weights": seed},
        )
        write_bundle(
            out,
            model=model,
            manifest=manifest,
            sample_input=sample,
            sample_output=expected,
            sample_image=png,
            replace=replace,
        )
    on_event(StageFinished("ship", str(out), monotonic() - started))
    return out


def bundle_name(key: str, weights: Path | None) -> str:
    """The folder of a bundle that got no name: what was searched for, and with which weights."""
    if weights is None:
        return key
    return f"{key}-{hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}"


def shipped_weights(bundle: Path) -> str:
    """What a bundle says of its weights: `untrained`, or where they come from."""
    weights = read_manifest(bundle).weights
    return "untrained" if weights.source == "untrained" else weights.detail


def require_linkable(target: Target) -> None:
    """Raise TargetError unless this machine's linker makes shared libraries for the target."""
    architecture = target.mtriple.split("-")[0]
    if architecture and architecture != platform.machine():
        raise TargetError(
            f"shipping for {target.name} needs a linker for {architecture}, which is not supported",
            hint=f"ship for a {platform.machine()} target",
        )


def check_before(out: Path | None, weights: Path | None, space: ArchSpace) -> None:
    """Raise before hours of work what `ship` would raise after them.

    Tries to write beside `out`, and reads the whole weight file.
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
    if weights is not None:
        require_supernet_file(weights)
        from ofatvm.supernet.checkpoint import load_weights

        load_weights(weights, space)


def sample_image(preprocessing: Preprocessing) -> tuple[bytes, np.ndarray]:
    """The shipped picture as PNG, and as the float32 input (1, height, width, channels)."""
    from PIL import Image

    with Image.open(data_dir("models") / "sample.jpg") as opened:
        picture = opened.convert(preprocessing.channels)
    buffer = BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    size, crop = preprocessing.resize, preprocessing.crop
    scaled = picture.resize((size, size), Image.Resampling.BILINEAR)
    start = (size - crop) // 2
    pixels = np.asarray(scaled, dtype=np.float32)[start : start + crop, start : start + crop]
    mean, std = (np.array(v, dtype=np.float32) for v in (preprocessing.mean, preprocessing.std))
    return buffer.getvalue(), ((pixels / np.float32(255.0) - mean) / std)[None]


def _check(model: Path, image: np.ndarray, expected: np.ndarray, setup: Setup) -> None:
    run = run_bundle(model, image, threads=setup.target.threads, timeout_s=RUN_TIMEOUT_S, calls=1)
    try:
        compare(run.output, expected)
    except OfatvmError as error:
        raise CompileError(
            f"the compiled network is not shipped: {error.message}",
            hint="compile it for another target, or report it with this architecture",
        ) from None


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
    run = run_bundle(model, sample, threads=threads, timeout_s=RUN_TIMEOUT_S, calls=COMPARE_CALLS)
    shipped = float(np.median(run.samples_ms))
    if shipped > SLOWER * measurement.latency_ms:
        on_event(
            Notice(
                "warning",
                f"the shipped module took {shipped:.3f} ms in a short run, the front says "
                f"{measurement.latency_ms:.3f} ms; was the machine busy?",
            )
        )


def _weights(origin: str, weights: Path | None, seed: int) -> Weights:
    if weights is None:
        return Weights(source="untrained", detail=f"initialised from seed {seed}")
    if origin.startswith("untrained"):
        return Weights(source="untrained", detail=origin[:200])
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return Weights(source="file", detail=origin[:200], sha256=digest)


def _accuracy(percent: float | None) -> Accuracy | None:
    if percent is None:
        return None
    return Accuracy(
        top1_percent=percent,
        kind="predicted",
        on="ImageNet validation set, with the published weights of this space; not measured with "
        "the weights in this bundle",
    )

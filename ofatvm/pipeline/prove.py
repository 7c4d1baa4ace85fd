"""Proof that a compiled network computes what PyTorch does: here, under qemu, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofatvm.bundle.card import cpp_source
from ofatvm.bundle.manifest import Agreement, Verified
from ofatvm.bundle.verify import compare
from ofatvm.device.bundle_runner import run_images
from ofatvm.device.cpu_features import host_features, needed_features
from ofatvm.device.qemu import run_emulated, why_not_emulated
from ofatvm.elf import host_machine, machine_of
from ofatvm.errors import BundleError, CompileError, MeasurementError, MissingInputError
from ofatvm.events import Event, Notice, ignore
from ofatvm.pipeline.contents import Contents, held_out
from ofatvm.pipeline.device_choice import runs_here
from ofatvm.road import Ir
from ofatvm.supernet.folder import SupernetFolder
from ofatvm.target import Target

RUN_TIMEOUT_S = 120.0
EMULATED_TIMEOUT_S = 900.0
RANDOM_IMAGES = 4
# Of a supernet's images under qemu, which takes some hundred times as long as a CPU.
FEWEST_HELD_OUT, MOST_HELD_OUT = 20, 1000
EMULATED_MACS = 4e9


@dataclass(frozen=True, slots=True)
class Proof:
    """How the code was verified; `here` if this machine's CPU ran it.

    `agreement` is that on held-out images under qemu: here, all of them sit the exam afterwards.
    """

    verified: Verified
    here: bool
    agreement: Agreement | None = None


def prove(
    model: Path,
    contents: Contents,
    target: Target,
    *,
    macs: int,
    seed: int,
    ir: Ir = "relax",
    supernet: SupernetFolder | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> Proof:
    """Compare outputs with PyTorch's, on the sample and on random images.

    Under qemu some of a supernet's held-out images follow, more of a network with fewer `macs`.
    Raises CompileError for a network that computes something else, crashes or hangs. Where it
    cannot be run at all, the proof says why, and a warning does.
    """
    noise = np.random.default_rng(seed).standard_normal(
        (RANDOM_IMAGES, *contents.sample.shape[1:]), dtype=np.float32
    )
    images = np.concatenate([contents.sample, noise])
    if target.kind == "llvm" and runs_here(target):
        wanted = contents.subnet.run(images)
        try:
            outputs = run_images(
                model, images, threads=target.threads, timeout_s=RUN_TIMEOUT_S, ir=ir
            )
        except MeasurementError as error:
            raise _not_shipped(error) from None
        largest = _largest_error(outputs, wanted)
        how = f"on the {host_machine()} machine that compiled it"
        return Proof(Verified(how=how, max_error=largest, images=len(images)), here=True)
    reason, agreement = _why_not(target, ir), None
    if not reason:
        if supernet is not None:
            more, _ = next(held_out(supernet, contents.preprocessing, _emulated_images(macs)))
            images = np.concatenate([images, more])
            # Where one class differs, `compare` ends it.
            agreement = Agreement(images=len(more), same_class_percent=100.0)
        try:
            return _emulated(model, images, contents, target, ir, agreement, on_event)
        except MissingInputError as error:
            reason = error.message
    on_event(Notice("warning", f"the code for {target.name} was not run: {reason}"))
    return Proof(Verified.not_run(reason), here=False)


def _emulated_images(macs: int) -> int:
    """How many held-out images a network of so many MACs is run on under qemu."""
    return int(min(max(EMULATED_MACS / macs, FEWEST_HELD_OUT), MOST_HELD_OUT))


def _why_not(target: Target, ir: Ir) -> str:
    """Why neither this machine nor qemu runs a target's code; empty if qemu does."""
    lacking = needed_features(target)
    if target.kind == "llvm" and machine_of(target.mtriple or host_machine()) == host_machine():
        names = " ".join(sorted(set(lacking) - host_features()))
        return f"this machine's CPU lacks {names}"
    return why_not_emulated(target, ir)


def _emulated(
    model: Path,
    images: np.ndarray,
    contents: Contents,
    target: Target,
    ir: Ir,
    agreement: Agreement | None,
    on_event: Callable[[Event], None],
) -> Proof:
    source = model.with_name("main.cc")
    source.write_text(cpp_source(contents.sample.shape, ir=ir), encoding="utf-8")
    wanted = contents.subnet.run(images)
    try:
        outputs, emulator = run_emulated(
            model,
            images,
            source,
            target,
            classes=wanted.shape[-1],
            timeout_s=EMULATED_TIMEOUT_S,
            ir=ir,
            on_event=on_event,
        )
    except MeasurementError as error:
        raise _not_shipped(error) from None
    largest = _largest_error(outputs, wanted)
    verified = Verified(how=f"by main.cc under {emulator}", max_error=largest, images=len(images))
    return Proof(verified, here=False, agreement=agreement)


def _largest_error(outputs: np.ndarray, wanted: np.ndarray) -> float:
    try:
        return max(compare(output, right) for output, right in zip(outputs, wanted, strict=True))
    except BundleError as error:
        raise _not_shipped(error) from None


def _not_shipped(error: BundleError | MeasurementError) -> CompileError:
    return CompileError(
        f"the compiled network is not shipped: {error.message}",
        hint=error.hint or "compile it for another target, or report it with this architecture",
    )

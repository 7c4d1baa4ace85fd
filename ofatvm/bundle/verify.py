"""Verify a bundle: everything that can be checked without loading it, and only then run it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ofatvm.bundle.agreement import Sample, check_agreement
from ofatvm.bundle.manifest import Elf, Manifest
from ofatvm.bundle.snapshot import check_tree, copy_checked, read_manifest
from ofatvm.elf import host_machine, read_elf
from ofatvm.errors import BundleError, UsageError
from ofatvm.events import Event, StageFinished, StageStarted, ignore
from ofatvm.files import scratch
from ofatvm.target import Target
from ofatvm.text import counted

if TYPE_CHECKING:
    import numpy as np

TOLERANCE = 1e-3
EMULATION_FACTOR = 5
NEEDS_GPU = "needs an NVIDIA GPU"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked, or why it could not be."""

    name: str
    status: Literal["ok", "not run"]
    detail: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found; whatever is wrong is an error instead.

    `latency_ms` is the median over `calls`; with `p90_ms` and `threads` it is None unless the
    bundle was run on this machine itself. `max_error` (relative to the largest output) is None when
    it was not run at all; `emulator` says what ran it if this machine's CPU did not.
    """

    bundle: Path
    manifest: Manifest
    checks: tuple[Check, ...]
    max_error: float | None = None
    latency_ms: float | None = None
    p90_ms: float | None = None
    calls: int = 0
    threads: int | None = None
    emulator: str | None = None

    @property
    def ran(self) -> bool:
        """Whether the compiled network was executed."""
        return self.max_error is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON output."""
        latency, accuracy = self.manifest.latency, self.manifest.accuracy
        agreement, verified = self.manifest.agreement, self.manifest.verified
        return {
            "bundle": str(self.bundle),
            "arch": self.manifest.arch,
            "target": self.manifest.target.name,
            "fingerprint": self.manifest.target.fingerprint,
            "weights": self.manifest.weights.source,
            "ran": self.ran,
            "checks": [asdict(check) for check in self.checks],
            "max_error": self.max_error,
            "latency": {
                "kind": "measured",
                "value_ms": self.latency_ms,
                "p90_ms": self.p90_ms,
                "n": self.calls,
                "threads": self.threads,
            }
            if self.latency_ms is not None
            else None,
            "emulator": self.emulator,
            "manifest_latency": asdict(latency) if latency else None,
            "manifest_accuracy": asdict(accuracy) if accuracy else None,
            "manifest_agreement": asdict(agreement) if agreement else None,
            "manifest_verified": asdict(verified) if verified else None,
        }


def verify_bundle(
    path: Path,
    *,
    run: bool = True,
    timeout_s: float = 60.0,
    threads: int | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> VerifyReport:
    """Check manifest, files, digests and ELF headers, then run the sample in a child process.

    Nothing of the bundle is loaded before all of it was checked, and what runs is the copy that was
    checked. Code for another machine runs under qemu-user if that is installed, and is not timed;
    code for a CPU with more features than this one's is not run, and the report says so.
    `threads` is the manifest's unless given. Whatever does not match is a BundleError; code that
    crashes or takes longer than `timeout_s` (`EMULATION_FACTOR` times that under qemu) is a
    MeasurementError.
    """
    start = time.monotonic()
    on_event(StageStarted("verify", None, str(path)))
    manifest = read_manifest(path)
    check_tree(path, manifest)
    count = len(manifest.files)
    with scratch("verify") as copy:
        copy_checked(path, manifest, copy)
        size_mb = sum(entry.size_bytes for entry in manifest.files.values()) / 1e6
        sample = check_agreement(copy, manifest)
        checks = [
            Check(
                "files",
                "ok",
                f"{counted(len(manifest.files), 'plain file')}, {size_mb:.1f} MB, no others",
            ),
            Check("digests", "ok", f"sha256 of {counted(len(manifest.files), 'file')}"),
            Check(
                "model.so",
                "ok",
                f"ELF shared object for {manifest.machine}, {Elf.of(read_elf(copy / 'model.so'))}",
            ),
            Check(
                "agreement",
                "ok",
                "architecture, MACs, parameters, shapes, target, sample, labels",
            ),
        ]
        reason = _why_not(manifest) if run else "not asked for"
        if reason:
            checks += [Check(what, "not run", reason) for what in ("output", "latency")]
            report = VerifyReport(path, manifest, tuple(checks))
        elif manifest.machine != host_machine():
            report = _emulate(path, manifest, checks, copy, sample, timeout_s, on_event)
        else:
            count = _threads(manifest, threads)
            report = _run(path, manifest, checks, copy / "model.so", sample, count, timeout_s)
    on_event(StageFinished("verify", str(path), time.monotonic() - start))
    return report


def _why_not(manifest: Manifest) -> str:
    """Why this machine cannot run the bundle's code at all; empty when it can."""
    if manifest.target.kind == "cuda":
        return NEEDS_GPU
    here = host_machine()
    if manifest.machine == here:
        lacking = _lacking_features(manifest)
        if lacking:
            return f"needs CPU features that this machine lacks: {' '.join(lacking)}"
        _check_relay(manifest)
        return ""
    from ofatvm.device.qemu import why_not_emulated

    foreign = f"compiled for {manifest.machine}, this machine is {here}"
    reason = why_not_emulated(_foreign_target(manifest), manifest.ir)
    installed = metadata.version("apache-tvm")
    built_with = manifest.versions.get("apache-tvm", installed)
    if not reason and built_with != installed:
        reason = f"it was compiled by TVM {built_with}, this ofatvm has {installed}"
    return f"{foreign}, and {reason}; or verify it on its own board" if reason else ""


def _check_relay(manifest: Manifest) -> None:
    """MissingInputError where what came from Relay lacks TVM 0.19 on its own kind of machine."""
    if manifest.ir == "relay":
        from ofatvm.compiler.relay_env import relay_versions

        relay_versions()


def _lacking_features(manifest: Manifest) -> list[str]:
    """What the code may use and this machine's CPU has not: there it would die of SIGILL."""
    from ofatvm.device.cpu_features import host_features

    return sorted(set(manifest.cpu_features) - host_features())


def _threads(manifest: Manifest, asked: int | None) -> int:
    cores = len(os.sched_getaffinity(0))
    if asked is not None:
        if not 1 <= asked <= cores:
            raise UsageError(f"threads must be 1 to {cores} on this machine, got {asked}")
        return asked
    named = manifest.latency.threads if manifest.latency else manifest.target.threads
    return min(named, cores)


def _run(
    path: Path,
    manifest: Manifest,
    checks: list[Check],
    model: Path,
    sample: Sample,
    threads: int,
    timeout_s: float,
) -> VerifyReport:
    import numpy as np

    from ofatvm.device.bundle_runner import run_bundle

    done = run_bundle(
        model,
        sample.input,
        threads=threads,
        timeout_s=timeout_s,
        built_with=manifest.versions.get("apache-tvm", ""),
        ir=manifest.ir,
    )
    error = compare(done.output, sample.output)
    median, p90 = (float(np.percentile(done.samples_ms, at)) for at in (50, 90))
    output = _agreed(error)
    latency = (
        f"median {median:.3g} ms, p90 {p90:.3g} ms, {counted(len(done.samples_ms), 'call')}, "
        f"{counted(threads, 'thread')}"
    )
    return VerifyReport(
        path,
        manifest,
        (*checks, Check("output", "ok", output), Check("latency", "ok", latency)),
        max_error=error,
        latency_ms=median,
        p90_ms=p90,
        calls=len(done.samples_ms),
        threads=threads,
    )


def _emulate(
    path: Path,
    manifest: Manifest,
    checks: list[Check],
    bundle: Path,
    sample: Sample,
    timeout_s: float,
    on_event: Callable[[Event], None],
) -> VerifyReport:
    from ofatvm.device.qemu import run_emulated

    output, emulator = run_emulated(
        bundle / "model.so",
        sample.input,
        bundle / "main.cc",
        _foreign_target(manifest),
        classes=sample.output.shape[-1],
        timeout_s=timeout_s * EMULATION_FACTOR,
        ir=manifest.ir,
        on_event=on_event,
    )
    error = compare(output, sample.output)
    checks += [
        Check("output", "ok", f"{_agreed(error)}, by main.cc under {emulator}"),
        Check("latency", "not run", "how long an emulator takes says nothing of the board"),
    ]
    return VerifyReport(path, manifest, tuple(checks), max_error=error, emulator=str(emulator))


def _foreign_target(manifest: Manifest) -> Target:
    """The target with a triple: that of the machine where it was made has none."""
    if manifest.target.kind != "llvm" or manifest.target.mtriple:
        return manifest.target
    environment = "gnueabihf" if manifest.machine == "arm" else "gnu"
    return replace(manifest.target, mtriple=f"{manifest.machine}-linux-{environment}")


def _agreed(error: float) -> str:
    return f"max error {error:.1e} of the largest output (at most {TOLERANCE:g}), same top class"


def compare(output: np.ndarray, expected: np.ndarray) -> float:
    """Largest error relative to the largest expected output; BundleError when it is too large."""
    import numpy as np

    if output.shape != expected.shape:
        raise BundleError(f"model.so gives shape {output.shape}, the sample has {expected.shape}")
    largest = float(np.abs(expected).max())
    difference = float(np.abs(output.astype(np.float64) - expected).max())
    error = difference / largest if largest else difference
    if not error <= TOLERANCE:
        raise BundleError(
            f"model.so does not give sample/output.npy: max error {error:.3g} of the largest "
            f"output, at most {TOLERANCE:g} is allowed"
        )
    found, wanted = int(output.argmax()), int(expected.argmax())
    if found != wanted:
        raise BundleError(
            f"model.so does not give sample/output.npy: its top class is {found}, not {wanted}"
        )
    return error

"""Whether a bundle's files and its manifest tell the same story; nothing is loaded or run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ofatvm.bundle.manifest import FILE_NAME, Elf, Manifest, TensorSpec
from ofatvm.elf import check_needs, machine_of, read_elf
from ofatvm.errors import ArchError, BundleError
from ofatvm.graph import operator_graph, totals
from ofatvm.spaces import find_space

if TYPE_CHECKING:
    import numpy as np

MAX_LABEL_BYTES = 1 << 22
MAX_HEADER_BYTES = 1024
NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<>|=]?[a-zA-Z]\d{0,3})', 'fortran_order': False, "
    rb"'shape': \(([\d, ]{0,80})\), \} *\n",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """The bundle's sample: an input, and what PyTorch made of it."""

    input: np.ndarray
    output: np.ndarray


def check_agreement(folder: Path, manifest: Manifest) -> Sample:
    """Compare everything that the manifest says twice or a file says too; returns the sample."""
    _check_model(folder / "model.so", manifest)
    _check_arch(manifest)
    sample = Sample(
        _tensor(folder / "sample/input.npy", manifest.inputs[0]),
        _tensor(folder / "sample/output.npy", manifest.outputs[0]),
    )
    _check_labels(folder, manifest)
    return sample


def _differ(what: str, here: object, there: object) -> BundleError:
    return BundleError(f"{FILE_NAME} says {what} {here}, which should be {there}")


def _check_model(model: Path, manifest: Manifest) -> None:
    facts = read_elf(model)
    machine = facts.machine
    if machine != manifest.machine:
        raise BundleError(f"model.so is for {machine}, {FILE_NAME} says {manifest.machine!r}")
    triple = (manifest.target.host or manifest.target).mtriple
    if triple and machine_of(triple) != machine:
        raise BundleError(f"model.so is for {machine}, the target is {triple}")
    found = Elf.of(facts)
    if manifest.elf is not None and manifest.elf != found:
        raise BundleError(f"model.so {found}; {FILE_NAME} says that it {manifest.elf}"[:300])
    wrong = check_needs(facts)
    if wrong:
        raise BundleError(f"model.so cannot be loaded on a board: {wrong}")
    size = model.stat().st_size
    if size != manifest.size_bytes:
        raise _differ("size_bytes", manifest.size_bytes, size)


def _check_arch(manifest: Manifest) -> None:
    try:
        arch = find_space(manifest.space).parse(manifest.arch)
    except ArchError as error:
        raise BundleError(f"{FILE_NAME}: {error.message}", hint=error.hint) from None
    if arch.encode() != manifest.arch:
        raise _differ("arch", manifest.arch, arch.encode())
    if arch.resolution != manifest.resolution:
        raise _differ("resolution", manifest.resolution, arch.resolution)
    size, channels = arch.resolution, arch.space.in_channels
    for what, shape, wanted in (
        ("input shape", manifest.inputs[0].shape, (1, size, size, channels)),
        ("output shape", manifest.outputs[0].shape, (1, arch.space.classes)),
        ("crop", manifest.preprocessing.crop, size),
        ("image channels", len(manifest.preprocessing.channels), channels),
    ):
        if shape != wanted:
            raise _differ(what, shape, wanted)
    cost = totals(operator_graph(arch))
    for what, number, right in (
        ("macs", manifest.macs, cost.macs),
        ("params", manifest.params, cost.params),
    ):
        if number != right:
            raise _differ(what, number, right)


def _tensor(path: Path, spec: TensorSpec) -> np.ndarray:
    """Read a .npy file exactly as numpy writes one; its header is data here, never evaluated."""
    import numpy as np

    name, size = f"sample/{path.name}", math.prod(spec.shape) * 4
    if path.stat().st_size > size + MAX_HEADER_BYTES:
        raise BundleError(f"{name} is larger than shape {spec.shape} needs")
    data = path.read_bytes()
    match = NPY.match(data)
    if match is None or match.end() != 10 + int.from_bytes(data[8:10], "little"):
        raise BundleError(f"{name} is not a .npy array of numbers in C order")
    dtype, dimensions = (group.decode() for group in match.groups())
    if dtype != "<f4":
        raise BundleError(f"{name} is not an array of float32, but {dtype}")
    shape = tuple(int(size) for size in dimensions.replace(",", " ").split())
    if shape != spec.shape:
        raise BundleError(f"{name} has shape {shape}, {FILE_NAME} says {spec.shape}")
    if len(data) - match.end() != size:
        raise BundleError(f"{name} has {len(data) - match.end()} bytes of numbers, not {size}")
    array = np.frombuffer(data, "<f4", offset=match.end()).reshape(shape)
    if not np.isfinite(array).all():
        raise BundleError(f"{name} holds numbers that are not finite")
    return array


def _check_labels(folder: Path, manifest: Manifest) -> None:
    if manifest.labels is None:
        if "labels.txt" in manifest.files:
            raise BundleError(f"labels.txt is there, {FILE_NAME} says labels null")
        return
    if manifest.labels != "labels.txt" or manifest.labels not in manifest.files:
        raise BundleError(f"{FILE_NAME} says labels {manifest.labels[:60]!r}, not labels.txt")
    path = folder / manifest.labels
    if path.stat().st_size > MAX_LABEL_BYTES:
        raise BundleError(f"labels.txt has more than {MAX_LABEL_BYTES} bytes")
    try:
        count = len(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        raise BundleError("labels.txt is not UTF-8 text") from None
    classes = manifest.outputs[0].shape[-1]
    if count != classes:
        raise BundleError(f"labels.txt has {count} lines for {classes} classes")

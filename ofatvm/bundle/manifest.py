"""`Manifest`: what a bundle says about itself, as manifest.json (schema 6; reads 1 to 6)."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ofatvm.bundle.typed_json import decoded, encoded, no_constant, require, unique
from ofatvm.elf import ElfFacts
from ofatvm.errors import BundleError
from ofatvm.measurement import Kind, Measurement, now
from ofatvm.road import Ir
from ofatvm.target import Target
from ofatvm.text import counted

SCHEMA = 6
# What manifests of an older schema do not say: its first schema, and what stands for it.
_SINCE: dict[str, tuple[int, Any]] = {
    "agreement": (2, None),
    "elf": (3, None),
    "verified": (3, None),
    "notes": (4, []),
    "ir": (5, "relax"),
    "preprocessing.native": (6, None),
}
FORMAT = "ofatvm-bundle"
FILE_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 64
MAX_NOTES = 16
MAX_FILE_BYTES = 4 << 30
MAX_AXES = 8
MAX_ELEMENTS = 1 << 28
MAX_SIDE = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output of `main`."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32"] = "float32"
    layout: str

    def __post_init__(self) -> None:
        """Refuse shapes that no tensor of a network has."""
        axes = len(self.shape)
        require(axes <= MAX_AXES, f"shape of {self.name!r} has {axes} axes, at most {MAX_AXES} may")
        require(
            all(size >= 1 for size in self.shape) and 1 <= math.prod(self.shape) <= MAX_ELEMENTS,
            f"shape of {self.name!r} must be of positive sizes, got {self.shape}",
        )
        require(
            len(self.layout) == axes,
            f"layout of {self.name!r} must name {axes} axes, got {self.layout[:60]!r}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """From an image to the input: shorter side to `resize`, centre crop, /255, normalise.

    With `native`, the size of the pictures that the network was trained and examined on, shorter
    side and centre crop are of that size first, and the square is scaled to `resize`, which is
    `crop` then.
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: Literal["RGB", "L"] = "RGB"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    native: int | None = None

    def __post_init__(self) -> None:
        """Check sizes, and one mean and deviation per channel."""
        require(
            1 <= self.crop <= self.resize <= MAX_SIDE,
            f"preprocessing needs 1 <= crop <= resize, got {self.crop} and {self.resize}",
        )
        require(
            self.native is None or (1 <= self.native <= MAX_SIDE and self.crop == self.resize),
            f"preprocessing with a native size needs it from 1 to {MAX_SIDE} and crop = resize, "
            f"got {self.native}, {self.crop} and {self.resize}",
        )
        require(
            len(self.mean) == len(self.std) == len(self.channels),
            f"preprocessing needs a mean and a std for each channel of {self.channels}",
        )
        require(all(value > 0 for value in self.std), "preprocessing needs a std above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """A latency with its spread: median and p90 of `n` samples, and the median's 95 % interval."""

    value_ms: float
    p90_ms: float | None
    n: int
    threads: int
    device: str
    kind: Kind
    when: str
    ci_low_ms: float | None = None
    ci_high_ms: float | None = None
    unstable: bool = False

    def __post_init__(self) -> None:
        """Times are positive."""
        for name in ("value_ms", "p90_ms", "ci_low_ms", "ci_high_ms"):
            value = getattr(self, name)
            require(value is None or value > 0, f"latency.{name} must be above 0, got {value}")
        require(self.n >= 1, f"latency.n must be at least 1, got {self.n}")
        require(1 <= self.threads <= 1024, f"latency.threads must be 1-1024, got {self.threads}")

    @classmethod
    def of(cls, measurement: Measurement) -> Latency:
        """The figure that a good measurement gives."""
        require(measurement.latency_ms is not None, f"no latency: {measurement.error}")
        assert measurement.latency_ms is not None
        return cls(
            value_ms=measurement.latency_ms,
            p90_ms=measurement.p90_ms,
            n=max(1, len(measurement.samples_ms)),
            threads=measurement.threads,
            device=measurement.device,
            kind=measurement.kind,
            when=measurement.when,
            ci_low_ms=measurement.ci_low_ms,
            ci_high_ms=measurement.ci_high_ms,
            unstable=measurement.unstable,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Top-1 accuracy, whether it was measured or predicted, and on what."""

    top1_percent: float
    kind: Literal["measured", "predicted"]
    on: str

    def __post_init__(self) -> None:
        """A share of images."""
        require(
            0 <= self.top1_percent <= 100,
            f"accuracy.top1_percent must be 0 to 100, got {self.top1_percent}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """On how many images, and for which share of them, the code names the class PyTorch names."""

    images: int
    same_class_percent: float

    def __post_init__(self) -> None:
        """A share of at least one image."""
        require(self.images >= 1, f"agreement.images must be at least 1, got {self.images}")
        require(
            0 <= self.same_class_percent <= 100,
            f"agreement.same_class_percent must be 0 to 100, got {self.same_class_percent}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """What model.so is for and needs: libraries, and the highest version of a glibc symbol."""

    machine: str
    needed: tuple[str, ...]
    glibc: str | None

    @classmethod
    def of(cls, facts: ElfFacts) -> Elf:
        """The part of a file's facts that a reader wants to know."""
        return cls(machine=facts.machine, needed=facts.needed, glibc=facts.glibc)

    def __str__(self) -> str:
        """In words."""
        libraries = ", ".join(self.needed) or "no library by name"
        return f"needs {libraries}, {f'glibc {self.glibc}' if self.glibc else 'any glibc'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """How the shipped code was compared with PyTorch, or `not run: ` and why it was not.

    `max_error` is the largest error over `images` inputs, relative to the largest output.
    """

    how: str
    max_error: float | None
    images: int

    def __post_init__(self) -> None:
        """An error belongs to images."""
        require(self.images >= 0, f"verified.images must not be negative, got {self.images}")
        require(
            (self.max_error is None) == (self.images == 0),
            "verified.max_error must be given for images, and for none only",
        )
        require(
            self.max_error is None or self.max_error >= 0,
            f"verified.max_error must not be negative, got {self.max_error}",
        )

    @classmethod
    def not_run(cls, reason: str) -> Verified:
        """Of code that could not be run."""
        return cls(how=f"not run: {reason}", max_error=None, images=0)

    @property
    def ran(self) -> bool:
        """Whether the code was run."""
        return self.images > 0

    def __str__(self) -> str:
        """In words."""
        if self.max_error is None:
            return self.how
        return (
            f"max error {self.max_error:.1e} of the largest output, "
            f"{counted(self.images, 'image')}, {self.how}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Where the weights come from: `untrained`, or a file with its digest."""

    source: Literal["untrained", "file"]
    detail: str = ""
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """Size and digest of one file of the bundle."""

    size_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        """Check form and size, so that no absurd file is ever read."""
        require(
            0 <= self.size_bytes <= MAX_FILE_BYTES,
            f"a file's size_bytes must be 0 to {MAX_FILE_BYTES}, got {self.size_bytes}",
        )
        require(
            re.fullmatch(r"[0-9a-f]{64}", self.sha256) is not None,
            f"a sha256 is 64 hex digits, got {self.sha256[:70]!r}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything a bundle says about itself.

    `cpu_features` are names of /proc/cpuinfo that the code needs; `coverage` is 0 to 1. The last
    five fields are filled in by `write_bundle`. Of the target, only what generates code is kept.
    `agreement` is None where it was not examined, as in every bundle of schema 1; `verified` and
    `elf` are None in every bundle of schema 1 or 2. `notes` are sentences about the code without a
    dot; there are none before schema 4. `ir` says through which representation of
    TVM it was compiled, and with that which runtime runs it: before schema 5, always Relax.
    """

    arch: str
    space: str
    resolution: int
    weights: Weights
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    target: Target
    cpu_features: tuple[str, ...]
    versions: dict[str, str]
    latency: Latency | None
    accuracy: Accuracy | None
    macs: int
    params: int
    coverage: float
    seeds: dict[str, int]
    agreement: Agreement | None = None
    verified: Verified | None = None
    notes: tuple[str, ...] = ()
    ir: Ir = "relax"
    created: str = field(default_factory=now)
    machine: str = ""
    elf: Elf | None = None
    size_bytes: int = 0
    labels: str | None = None
    files: dict[str, FileEntry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what needs no other file."""
        for name in ("inputs", "outputs"):
            count = len(getattr(self, name))
            require(count == 1, f"a bundle has exactly one of {name}, got {count}")
        for name in ("macs", "params", "size_bytes"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must not be negative, got {value}")
        require(0 <= self.coverage <= 1, f"coverage must be 0 to 1, got {self.coverage}")
        require(len(self.notes) <= MAX_NOTES, f"a manifest has at most {MAX_NOTES} notes")
        require(len(self.files) <= MAX_FILES, f"a bundle has at most {MAX_FILES} files")
        require(
            all(re.fullmatch(r"[a-z0-9_]{1,32}", name) for name in self.cpu_features),
            "a CPU feature is a word of lower-case letters, digits and '_'",
        )
        for name in self.files:
            check_name(name)
        target = replace(self.target, family=(), notes="", machine=None, filled=())
        object.__setattr__(self, "target", target)

    def to_json(self) -> str:
        """The text of manifest.json."""
        value = {"format": FORMAT, "schema": SCHEMA, **encoded(self)}
        value["target"] = {
            "name": self.target.name,
            "options": self.target.to_dict(),
            "threads": self.target.threads,
            "fingerprint": self.target.fingerprint,
        }
        return json.dumps(value, indent=2, allow_nan=False) + "\n"


def check_name(name: str) -> None:
    """A file's name inside a bundle: plain words with slashes, inside the folder."""
    shown = repr(name[:80])
    require(not name.startswith("/"), f"file name {shown} in {FILE_NAME} is absolute")
    require(".." not in name.split("/"), f"file name {shown} in {FILE_NAME} leaves the bundle")
    word = r"(?!\.)[A-Za-z0-9._-]{1,100}"
    require(
        re.fullmatch(rf"{word}(/{word}){{0,3}}", name) is not None and name != FILE_NAME,
        f"file name {shown} in {FILE_NAME} is not allowed",
    )


def parse_manifest(data: bytes) -> Manifest:
    """Read manifest.json; anything odd in it is a BundleError that names the rule."""
    require(
        len(data) <= MAX_MANIFEST_BYTES,
        f"{FILE_NAME} has {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are allowed",
    )
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant
        )
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{FILE_NAME} is not valid JSON: {str(error)[:120]}") from None
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise BundleError(f'{FILE_NAME} is not of a bundle (no "format": "{FORMAT}")')
    schema = value.pop("schema", None)
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise BundleError(
            f"{FILE_NAME} has schema {str(schema)[:20]}, this ofatvm reads 1 to {SCHEMA}",
            hint="use the ofatvm that wrote it",
        )
    for name, (since, unsaid) in _SINCE.items():
        *outer, key = name.split(".")
        place = value.get(outer[0]) if outer else value
        if schema < since and isinstance(place, dict):
            place.setdefault(key, unsaid)
    manifest: Manifest = decoded(Manifest, value, FILE_NAME)
    return manifest

"""The TVM runtime of another machine: two libraries out of its wheels, fetched once and kept.

`runtimes.toml` pins which. They lie in `<cache>/runtime/<machine>-<version>/`, where a runtime that
was built from source (`scripts/build_runtime.py`) may lie, too, for machines without wheels.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ofatvm.errors import MissingInputError
from ofatvm.events import Event, Notice, ignore
from ofatvm.files import replace_file, scratch
from ofatvm.paths import cache_dir
from ofatvm.road import Ir
from ofatvm.signals import ending_with_parent

PINS = Path(__file__).with_name("runtimes.toml")
NAMES = ("libtvm_runtime.so", "libtvm_ffi.so")
RELAY_NAMES = ("libtvm_runtime.so",)
_PACKAGES: dict[Ir, tuple[str, ...]] = {
    "relax": ("apache-tvm", "apache-tvm-ffi"),
    "relay": ("xtc-tvm-python-bindings",),
}
FETCH_TIMEOUT_S = 1800.0
# The wheels that carry libraries only for one Python; any one will do, and 3.11 is pinned.
_PYTHON = ("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "none")


@dataclass(frozen=True, slots=True)
class Library:
    """A library in a wheel, as `runtimes.toml` pins it."""

    machine: str
    package: str
    version: str
    platform: str
    wheel_sha256: str
    wheel_mb: int
    member: str
    sha256: str

    @property
    def name(self) -> str:
        """The library's file name."""
        return self.member.rsplit("/", 1)[1]


def library_names(ir: Ir) -> tuple[str, ...]:
    """The libraries that a road's runtime consists of."""
    return NAMES if ir == "relax" else RELAY_NAMES


def runtime_folder(machine: str, ir: Ir = "relax") -> Path:
    """Where the runtime of a machine lies, or will: it belongs to the installed TVM of the road."""
    return cache_dir() / "runtime" / f"{machine}-{'-'.join(_versions(ir).values())}"


def pinned(machine: str, ir: Ir = "relax") -> tuple[Library, ...]:
    """The libraries for a machine and the installed TVM; empty if there are no such wheels."""
    rows = tomllib.loads(PINS.read_text(encoding="utf-8"))["library"]
    found = [Library(**row) for row in rows if row["machine"] == machine]
    versions = _versions(ir)
    return tuple(row for row in found if row.version == versions.get(row.package))


def _versions(ir: Ir) -> dict[str, str]:
    if ir == "relax":
        return {name: metadata.version(name) for name in _PACKAGES[ir]}
    from ofatvm.compiler.relay_env import relay_versions

    return {name: relay_versions()[name] for name in _PACKAGES[ir]}


def why_no_runtime(machine: str, ir: Ir = "relax") -> str:
    """Why there can be no runtime for a machine; empty if it is there or can be fetched."""
    try:
        folder = runtime_folder(machine, ir)
    except MissingInputError as error:
        return f"{error.message} ({error.hint})"
    if pinned(machine, ir) or all((folder / name).is_file() for name in library_names(ir)):
        return ""
    if ir == "relay":
        return f"there are no wheels of TVM 0.19 for {machine}"
    return (
        f"there are no wheels of TVM {metadata.version('apache-tvm')} for {machine}; "
        "scripts/build_runtime.py builds its runtime from source"
    )


def tvm_runtime(
    machine: str, ir: Ir = "relax", *, on_event: Callable[[Event], None] = ignore
) -> Path:
    """The folder with a road's libraries for a machine, fetching what is missing or damaged.

    Raises MissingInputError if there are none, or without a network.
    """
    reason = why_no_runtime(machine, ir)
    if reason:
        raise MissingInputError(reason)
    folder = runtime_folder(machine, ir)
    lacking = [row for row in pinned(machine, ir) if _digest(folder / row.name) != row.sha256]
    if lacking:
        size = sum(row.wheel_mb for row in lacking)
        on_event(Notice("info", f"fetching the TVM runtime for {machine} ({size} MB, once)"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for row in lacking:
                replace_file(folder / row.name, _fetch(row))
        except OSError as error:
            raise MissingInputError(
                f"cannot keep the TVM runtime for {machine} in {folder}: {error.strerror}",
                hint="OFATVM_CACHE names another folder",
            ) from None
    return folder


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _fetch(row: Library) -> bytes:
    """The library out of its wheel, which pip fetches as it fetches everything else."""
    what = f"{row.package} {row.version} for {row.machine}"
    with scratch("runtime") as folder:
        (folder / "wanted.txt").write_text(
            f"{row.package}=={row.version} --hash=sha256:{row.wheel_sha256}\n", encoding="utf-8"
        )
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
        words += ["--only-binary=:all:", "--platform", row.platform, *_PYTHON]
        words += ["--require-hashes", "-r", "wanted.txt", "-d", str(folder)]
        words += ["--no-input", "--disable-pip-version-check", "--retries", "1"]
        try:
            done = subprocess.run(
                ending_with_parent(words),
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=FETCH_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise MissingInputError(
                f"fetching {what} took longer than {FETCH_TIMEOUT_S:g} s",
                hint="try again with a faster network",
            ) from None
        wheels = list(folder.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise MissingInputError(
                f"cannot fetch {what}: {_reason(done.stderr)}",
                hint=f"it needs a network once; {cache_dir() / 'runtime'} keeps it",
            )
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                data = wheel.read(row.member)
        except (zipfile.BadZipFile, KeyError):
            data = b""
    if hashlib.sha256(data).hexdigest() != row.sha256:
        raise MissingInputError(f"the wheel of {what} does not hold the library that is pinned")
    return data


def _reason(text: str) -> str:
    """What pip complains of first, without its label."""
    lines = [line.strip() for line in text.splitlines()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["pip said nothing"]
    return re.sub(r"^ERROR: *", "", errors[0])[:200]

"""`Target`: what code is generated for. Parsing of target strings, JSON and TOML files."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ofatvm.errors import MissingInputError, TargetError
from ofatvm.paths import data_dir

MAX_CORES = 1024
MAX_FILE_BYTES = 64 * 1024
_KEYS = ("kind", "mtriple", "mcpu", "mattr", "num-cores")


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to generate code for, as TVM's target dict, and the threads that will run it.

    `family` names targets whose tuning records serve this one too, nearest first; `notes` says
    where the description comes from and how far it was verified.
    """

    name: str
    kind: str = "llvm"
    mtriple: str = ""
    mcpu: str = ""
    mattr: tuple[str, ...] = ()
    num_cores: int = 1
    threads: int = 0
    family: tuple[str, ...] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        """Check names and numbers; whether LLVM knows the CPU is checked by the compiler layer."""
        if self.kind not in ("llvm", "cuda"):
            raise TargetError(f"target kind must be llvm or cuda, got {self.kind[:60]!r}")
        for name in (self.name, *self.family):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
                raise TargetError(
                    f"a target name is letters, digits, '.', '_' and '-', got {name[:60]!r}"
                )
        for label, value in (("mtriple", self.mtriple), ("mcpu", self.mcpu)):
            if not re.fullmatch(r"[A-Za-z0-9._+-]{0,64}", value):
                raise TargetError(f"{label} holds an unexpected character: {value[:60]!r}")
        for attribute in self.mattr:
            if not re.fullmatch(r"[+-][a-z0-9._-]{1,40}", attribute):
                raise TargetError(f"an attribute is +name or -name, got {attribute[:60]!r}")
        for label, number in (("num-cores", self.num_cores), ("threads", self.threads)):
            if not 0 <= number <= MAX_CORES or (label == "num-cores" and number < 1):
                shown = number if abs(number) < 10**9 else "a number far beyond"
                raise TargetError(f"{label} must be 1 to {MAX_CORES}, got {shown}")
        if self.threads > self.num_cores:
            raise TargetError(
                f"{self.threads} threads on a target of {self.num_cores} cores",
                hint="give at most as many threads as cores",
            )
        if self.threads == 0:
            object.__setattr__(self, "threads", self.num_cores)

    def to_dict(self) -> dict[str, Any]:
        """TVM's target dict."""
        value: dict[str, Any] = {"kind": self.kind, "num-cores": self.num_cores}
        for key, entry in (("mtriple", self.mtriple), ("mcpu", self.mcpu)):
            if entry:
                value[key] = entry
        if self.mattr:
            value["mattr"] = list(self.mattr)
        return value

    @property
    def fingerprint(self) -> str:
        """12 hex digits over everything that changes generated code."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def record_names(self) -> tuple[str, ...]:
        """Folders whose tuning records serve this target, nearest first; the first is its own.

        A schedule that is best with all cores need not be best with fewer threads, so that records
        made with fewer have a folder of their own.
        """
        names: list[str] = []
        for name in (self.name, *self.family):
            if self.threads != self.num_cores:
                names.append(f"{name}-{self.threads}-threads")
            names.append(name)
        return tuple(dict.fromkeys(names))

    def with_threads(self, threads: int) -> Target:
        """The same target run with another number of threads."""
        return replace(self, threads=threads)


def parse_target(text: str) -> Target:
    """A target from a TVM-style string, a JSON dict, or the name or path of a TOML file.

    `host` is not handled here: it needs LLVM to name the CPU (`compiler.isa.host_target`).
    """
    text = text.strip()
    if not text:
        raise TargetError("the target is empty", hint="try --target host, or `ofatvm targets`")
    if text.startswith("{"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TargetError(f"target is not valid JSON: {text[:60]!r} ({error})") from None
        return target_from_dict(value, name="")
    words = text.split()
    if words[0] in ("llvm", "cuda") or words[0].startswith("-"):
        return _from_words(words)
    if text.endswith(".toml") or "/" in text:
        return load_target(Path(text))
    known = {path.stem: path for path in sorted(data_dir("targets").glob("*.toml"))}
    if text in known:
        return load_target(known[text])
    raise TargetError(
        f"unknown target {text[:60]!r}",
        hint=f"known: host, {', '.join(known)}; or 'llvm -mcpu=NAME', a JSON dict, or a TOML file",
    )


def _from_words(words: list[str]) -> Target:
    options: dict[str, Any] = {"kind": "llvm"}
    if not words[0].startswith("-"):
        options["kind"] = words[0]
        words = words[1:]
    for word in _joined(words):
        match = re.fullmatch(r"--?(mtriple|mcpu|mattr|num-cores)=(\S+)", word)
        if not match:
            raise TargetError(
                f"cannot read {word[:60]!r} in the target",
                hint="options are -mtriple=, -mcpu=, -mattr= and -num-cores=",
            )
        key, value = match.groups()
        if key in options:
            raise TargetError(f"-{key} is given twice in the target")
        if key == "num-cores":
            if not re.fullmatch(r"[0-9]{1,6}", value):
                raise TargetError(f"num-cores must be a whole number, got {value[:60]!r}")
            options[key] = int(value)
        else:
            options[key] = value.split(",") if key == "mattr" else value
    return target_from_dict(options, name="")


def _joined(words: list[str]) -> list[str]:
    """`-num-cores 4` as `-num-cores=4`."""
    joined: list[str] = []
    for word in words:
        if joined and not word.startswith("-") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def load_target(path: Path) -> Target:
    """A target from a TOML file with the keys of TVM's target dict, and threads, family, notes."""
    shown = repr(str(path)[-60:])
    try:
        # Devices and pipes would be read for ever.
        if not path.is_file():
            raise MissingInputError(f"no target file {shown}", hint="see `ofatvm targets`")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TargetError(f"cannot read target file {shown}: {error.strerror}") from None
    except ValueError:
        raise TargetError(f"not a file name: {shown}") from None
    if len(data) > MAX_FILE_BYTES:
        raise TargetError(f"target file {shown} is larger than {MAX_FILE_BYTES} bytes")
    try:
        value = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise TargetError(f"{shown} is not valid TOML: {error}") from None
    return target_from_dict(value, name=path.stem)


def target_from_dict(value: Any, *, name: str) -> Target:
    """Build a Target from a dict; unknown keys and wrong types are errors."""
    if not isinstance(value, Mapping):
        raise TargetError(f"a target is a table of options, got {type(value).__name__}")
    unknown = sorted(set(value) - {*_KEYS, "threads", "family", "notes"})
    if unknown:
        raise TargetError(
            f"unknown target option {str(unknown[0])[:60]!r}", hint=f"options: {', '.join(_KEYS)}"
        )
    for key, kind in (
        *((key, str) for key in ("kind", "mtriple", "mcpu", "notes")),
        *((key, int) for key in ("num-cores", "threads")),
        *((key, list) for key in ("mattr", "family")),
    ):
        if key in value and type(value[key]) is not kind:
            raise TargetError(
                f"target option {key} must be a {kind.__name__}, got a {type(value[key]).__name__}"
            )
    for key in ("mattr", "family"):
        if any(type(item) is not str for item in value.get(key, [])):
            raise TargetError(f"target option {key} must be a list of strings")
    mcpu = value.get("mcpu", "")
    return Target(
        name=name or mcpu or value.get("mtriple", "") or value.get("kind", "llvm"),
        kind=value.get("kind", "llvm"),
        mtriple=value.get("mtriple", ""),
        mcpu=mcpu,
        mattr=tuple(value.get("mattr", ())),
        num_cores=value.get("num-cores", 1),
        threads=value.get("threads", 0),
        family=tuple(value.get("family", ())),
        notes=value.get("notes", ""),
    )

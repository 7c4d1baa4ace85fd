"""`Target`: what code is generated for, from text, TVM's dict or a TOML file.

What LLVM and TVM know of a target is asked in `compiler/isa.py`; `compiler/resolve.py` fills in
what a target leaves out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ofatvm.errors import MissingInputError, TargetError
from ofatvm.machine import Machine, machine_from_dict
from ofatvm.paths import data_dir
from ofatvm.target_text import (
    CPU_OPTIONS,
    GPU_LIMITS,
    KINDS,
    TagOptions,
    nearest,
    options_from_json,
    options_from_words,
    options_of_tvm,
)

MAX_CORES = 1024
MAX_FILE_BYTES = 64 * 1024
MAX_TEXT = 64 * 1024
FLOAT_ABIS = ("hard", "soft")
RISCV_ABIS = ("lp64", "lp64f", "lp64d", "ilp32", "ilp32f", "ilp32d")
_OWN_OPTIONS = ("threads", "family", "notes", "machine")
_TYPES: dict[str, type] = {
    **dict.fromkeys(("kind", "mtriple", "mcpu", "mfloat-abi", "mabi", "arch", "notes"), str),
    **dict.fromkeys(("num-cores", "threads", *GPU_LIMITS), int),
    **dict.fromkeys(("mattr", "family"), list),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to generate code for, as TVM's target dict, and the threads that will run it.

    `mattr` is kept in one order: what is switched on, then what is switched off. A cuda target has
    an `arch` such as sm_87, `limits` by TVM's names, and a `host`, the llvm target of its CPU.

    `family` names targets whose tuning records serve this one too, nearest first; `notes` says
    where the description comes from and how far it was verified. `machine` is for simulation and
    does not change code. `filled` says, a sentence each, what was not given but concluded.
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
    mfloat_abi: str = ""
    mabi: str = ""
    arch: str = ""
    limits: tuple[tuple[str, int], ...] = ()
    host: Target | None = None
    machine: Machine | None = None
    filled: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Check names and numbers; whether LLVM knows the CPU is checked by the compiler layer."""
        _check_kind_name(self.kind)
        # Before the name, which is the CPU's where none is given.
        for label, value in (("mtriple", self.mtriple), ("mcpu", self.mcpu), ("arch", self.arch)):
            if not re.fullmatch(r"[A-Za-z0-9._+-]{0,64}", value):
                raise TargetError(
                    f"{label} holds an unexpected character: {value[:60]!r}",
                    hint="it is letters, digits, '.', '_', '+' and '-', as -mcpu=cortex-a72",
                )
        for name in (self.name, *self.family):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
                raise TargetError(
                    f"a target name is letters, digits, '.', '_' and '-', got {name[:60]!r}"
                )
        for label, value, allowed in (
            ("mfloat-abi", self.mfloat_abi, FLOAT_ABIS),
            ("mabi", self.mabi, RISCV_ABIS),
        ):
            if value and value not in allowed:
                raise TargetError(
                    f"{label} must be one of {', '.join(allowed)}, got {value[:60]!r}",
                    hint=nearest(value, allowed),
                )
        object.__setattr__(self, "mattr", _ordered(self.mattr))
        for label, number in (("num-cores", self.num_cores), ("threads", self.threads)):
            if not 0 <= number <= MAX_CORES or (label == "num-cores" and number < 1):
                raise TargetError(f"{label} must be 1 to {MAX_CORES}, got {_shown(number)}")
        if self.threads > self.num_cores:
            raise TargetError(
                f"{self.threads} threads on a target of {self.num_cores} cores",
                hint="give at most as many threads as cores",
            )
        if self.threads == 0:
            object.__setattr__(self, "threads", self.num_cores)
        self._check_kind()

    def _check_kind(self) -> None:
        """Refuse options that belong to the other kind."""
        if self.kind == "llvm" and (self.arch or self.limits or self.host):
            option = "-arch=" if self.arch else self.limits[0][0] if self.limits else "host"
            raise TargetError(f"{option} is an option of cuda targets, not of llvm ones")
        cpu = (self.mtriple, self.mcpu, self.mattr, self.mfloat_abi, self.mabi)
        if self.kind == "cuda" and any(cpu):
            raise TargetError(
                "CPU options of a cuda target stand in its host",
                hint='as {"kind": "cuda", "arch": "sm_87", "host": {"mcpu": "cortex-a78"}}',
            )
        for label, number in self.limits:
            if label not in GPU_LIMITS or not 1 <= number <= GPU_LIMITS[label]:
                raise TargetError(
                    f"{label} must be 1 to {GPU_LIMITS.get(label)}, got {_shown(number)}"
                )
        if self.host is not None and self.host.kind != "llvm":
            raise TargetError("the host of a cuda target must be an llvm target")

    def to_dict(self) -> dict[str, Any]:
        """TVM's target dict."""
        if self.kind == "cuda":
            value: dict[str, Any] = {"kind": "cuda", **({"arch": self.arch} if self.arch else {})}
            value |= dict(self.limits)
            return value | ({"host": self.host.to_dict()} if self.host else {})
        value = {"kind": self.kind, "num-cores": self.num_cores}
        for key, entry in (
            ("mtriple", self.mtriple),
            ("mcpu", self.mcpu),
            ("mfloat-abi", self.mfloat_abi),
            ("mabi", self.mabi),
        ):
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


def shipped() -> dict[str, Path]:
    """The TOML files in targets/ by name."""
    return {path.stem: path for path in sorted(data_dir("targets").glob("*.toml"))}


def read_target(text: str, tags: TagOptions | None = None) -> tuple[str, dict[str, Any]]:
    """Name (empty where the text gives none) and options of a target, as far as they are given.

    `tags` gives TVM's options for a tag; without it no tag is known.
    """
    text = text.strip()
    if not text:
        raise TargetError("the target is empty", hint="try --target host, or `ofatvm targets`")
    if len(text) > MAX_TEXT:
        raise TargetError(f"the target is longer than {MAX_TEXT} characters")
    _refuse_options(text)
    if text.startswith("{"):
        return "", options_from_json(text, tags)
    words = text.split()
    if words[0] in KINDS or words[0].startswith("-"):
        return "", options_from_words(words)
    known = shipped()
    if text in known:
        return text, read_toml(known[text])
    if _is_path(text):
        path = Path(os.path.expanduser(text))
        options = read_toml(path)
        return path.stem, options_of_tvm(options, tags)
    if tags is not None and "/" in text:
        options = options_of_tvm(tags(text), tags)
        return "" if "mcpu" in options else text.rsplit("/", 1)[1], options
    raise TargetError(
        f"unknown target {text[:60]!r}",
        hint=nearest(text, ("host", *known))
        or "`ofatvm targets` lists names; or 'llvm -mcpu=NAME', a JSON dict, or a TOML file",
    )


def _refuse_options(text: str) -> None:
    """TargetError for options behind what is a whole target already: a name, a file, JSON."""
    if text.startswith("-") or text.split()[0] in KINDS or _is_file(text):
        return
    if text.startswith("{"):
        given, brace, options = text.rpartition("}")
        given, options = given + brace, options.strip()
    else:
        found = re.search(r"\s-{1,2}[A-Za-z]", text)
        place = found.start() if found else len(text)
        given, options = text[:place].rstrip(), text[place:].strip()
    if not options.startswith("-"):
        return
    if given in ("host", *shipped()) or "/" in given or given.endswith((".toml", "}")):
        raise TargetError(
            f"{given[-60:]!r} takes no options, got {options.split()[0][:60]!r}",
            hint="give --threads, or the whole target as in 'llvm -mcpu=cortex-a72 -num-cores=4'",
        )
    whole = f"llvm -mcpu={given[:60]} {options[:60]}"
    raise TargetError(
        f"unknown target {given[:60]!r}, and only llvm and cuda take options",
        hint=f"if it is a CPU, give {whole!r}",
    )


def load_target(path: Path) -> Target:
    """A target from a TOML file with the keys of TVM's target dict, and some of ours."""
    return target_from_dict(read_toml(path), name=path.stem)


def read_toml(path: Path) -> dict[str, Any]:
    """What a target file says, unchecked."""
    shown = repr(str(path)[-60:])
    try:
        # Devices and pipes would be read for ever.
        if path.exists() and not path.is_file():
            raise MissingInputError(f"{shown} is no ordinary file", hint="see `ofatvm targets`")
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
        return tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "".join(c if c.isprintable() else "?" for c in str(error))[:200]
        raise TargetError(f"{shown} is not valid TOML: {reason}") from None


def target_from_dict(value: Any, *, name: str) -> Target:
    """Build a Target from a dict; unknown keys and wrong types are errors.

    Without a name it is that of the CPU, the GPU's architecture, or whatever else is known.
    """
    if not isinstance(value, Mapping):
        raise TargetError(f"a target is a table of options, got {type(value).__name__}")
    check_options(value)
    host = value.get("host")
    if isinstance(host, Mapping) and "host" in host:
        raise TargetError("the host of a target has no host of its own")
    machine = value.get("machine")
    arch = value.get("arch", "")
    mcpu = value.get("mcpu", "")
    named = name or mcpu or arch or value.get("mtriple", "") or value.get("kind", "llvm")
    built = None if host is None else target_from_dict(host, name="")
    cores = value.get("num-cores", 1)
    if value.get("kind") == "cuda":
        if "num-cores" in value:
            raise TargetError("num-cores of a cuda target stands in its host")
        cores = built.num_cores if built else 1
    return Target(
        name=named,
        kind=value.get("kind", "llvm"),
        mtriple=value.get("mtriple", ""),
        mcpu=mcpu,
        mattr=tuple(value.get("mattr", ())),
        num_cores=cores,
        threads=value.get("threads", 0),
        family=tuple(value.get("family", ())),
        notes=value.get("notes", ""),
        mfloat_abi=value.get("mfloat-abi", ""),
        mabi=value.get("mabi", ""),
        arch=arch,
        limits=tuple((key, value[key]) for key in sorted(GPU_LIMITS) if key in value),
        host=built,
        machine=None if machine is None else machine_from_dict(machine),
    )


def check_options(value: Mapping[str, Any]) -> None:
    """Raise TargetError for unknown options and for wrong types."""
    if isinstance(value.get("kind"), str):
        _check_kind_name(value["kind"])
    known = (*_TYPES, "host", "machine")
    unknown = sorted(str(key) for key in value if key not in known)
    if unknown:
        options = ("kind", *CPU_OPTIONS, "arch", "host", *GPU_LIMITS, *_OWN_OPTIONS)
        raise TargetError(
            f"unknown target option {unknown[0][:60]!r}",
            hint=nearest(unknown[0], options) or f"options: {', '.join(options)}",
        )
    for key, kind in _TYPES.items():
        if key in value and type(value[key]) is not kind:
            raise TargetError(
                f"target option {key} must be a {kind.__name__}, got a {type(value[key]).__name__}"
            )
    for key in ("mattr", "family"):
        if any(type(item) is not str for item in value.get(key, [])):
            raise TargetError(f"target option {key} must be a list of strings")
    for key in ("host", "machine"):
        if key in value and not isinstance(value[key], Mapping):
            raise TargetError(
                f"target option {key} must be a table, got a {type(value[key]).__name__}"
            )


def _check_kind_name(kind: str) -> None:
    if kind not in KINDS:
        raise TargetError(
            f"target kind must be llvm or cuda, got {kind[:60]!r}", hint=nearest(kind, KINDS)
        )


def _ordered(attributes: Iterable[str]) -> tuple[str, ...]:
    """Each attribute once: what is switched on, then what is switched off, by name."""
    once = sorted(dict.fromkeys(attributes))
    for attribute in once:
        if not re.fullmatch(r"[+-][a-z0-9._-]{1,40}", attribute):
            raise TargetError(f"an attribute is +name or -name, got {attribute[:60]!r}")
        if attribute[0] == "-" and f"+{attribute[1:]}" in once:
            raise TargetError(f"attribute {attribute[1:]!r} is switched both on and off")
    return tuple(once)


def option_text(value: Any) -> str:
    """A value of TVM's target dict for people: words of a list, `name value` of a dict's options.

    A dict within a dict, as a GPU's host, stands in brackets.
    """
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key} ({option_text(entry)})"
            if isinstance(entry, Mapping)
            else f"{key} {option_text(entry)}"
            for key, entry in value.items()
        )
    return " ".join(value) if isinstance(value, list) else str(value)


def _shown(number: int) -> str:
    return str(number) if abs(number) < 10**9 else "a number far beyond"


def _is_path(text: str) -> bool:
    if text.endswith(".toml") or text.startswith(("/", "./", "../", "~")):
        return True
    return "/" in text and _is_file(text)


def _is_file(text: str) -> bool:
    try:
        return Path(os.path.expanduser(text)).exists()
    except (OSError, ValueError, RuntimeError):
        return False

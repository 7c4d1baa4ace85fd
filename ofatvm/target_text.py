"""Target strings as TVM users write them, `llvm -mcpu=cortex-a72` and JSON, as dicts of options.

TVM itself no longer reads the first form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ofatvm.errors import TargetError

KINDS = ("llvm", "cuda")
CPU_OPTIONS = ("mtriple", "mcpu", "mattr", "num-cores", "mfloat-abi", "mabi")
# TVM's names of what a block of GPU threads may use, and what each can be at most.
GPU_LIMITS = {
    "max_threads_per_block": 4096,
    "max_shared_memory_per_block": 1 << 24,
    "thread_warp_size": 1024,
    "registers_per_block": 1 << 24,
    "max_num_threads": 4096,
    "l2_cache_size_bytes": 1 << 36,
}
TagOptions = Callable[[str], Mapping[str, Any]]
WORD_OPTIONS = (*CPU_OPTIONS, "arch", *GPU_LIMITS)
_WHOLE = ("num-cores", *GPU_LIMITS)
_SHOWN = "-mcpu=, -mtriple=, -mattr=, -num-cores=, -mfloat-abi=, -mabi= and -arch="
# TVM puts these into a target's JSON, and works them out by itself from the other options.
_TVMS_OWN = ("keys", "model", "device")


def closest(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """The known word most like this one; empty where none is like it, from 0 to 1, to `cutoff`."""
    import difflib

    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word[:80].lower(), names, n=1, cutoff=cutoff)
    return names[close[0]] if close else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the known word most like this one; empty where none is like it."""
    name = closest(word, known)
    return f"the nearest name is {name}" if name else ""


def takes(option: str, word: str) -> bool:
    """Whether `word` is the value of the option before it, as in `-num-cores 4`, `-mattr -crc`."""
    if "=" in option or not option.startswith("-"):
        return False
    if option.lstrip("-") == "mattr" and re.fullmatch(r"[+-][A-Za-z0-9._]\S*", word):
        return "=" not in word
    return not word.startswith("-")


def join_words(words: Sequence[str]) -> list[str]:
    """`-num-cores 4` as `-num-cores=4`."""
    joined: list[str] = []
    for word in words:
        if joined and takes(joined[-1], word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def options_from_words(words: list[str]) -> dict[str, Any]:
    """Options from the words of a target string; CPU options of a cuda target go to its host."""
    options: dict[str, Any] = {"kind": "llvm"}
    if not words[0].startswith("-"):
        options["kind"] = words[0]
        words = words[1:]
    for word in join_words(words):
        match = re.fullmatch(r"--?([A-Za-z][A-Za-z0-9_-]*)=(\S+)", word)
        if match and match[1] in _TVMS_OWN:
            continue
        if not match or match[1] not in WORD_OPTIONS:
            option = match[1] if match else word.lstrip("-").partition("=")[0]
            hint = f"options are {_SHOWN}" if option in WORD_OPTIONS else _option_hint(option)
            raise TargetError(f"cannot read {word[:60]!r} in the target", hint=hint)
        key, value = match.groups()
        if key in options:
            raise TargetError(f"-{key} is given twice in the target")
        if key in _WHOLE:
            if not re.fullmatch(r"[0-9]{1,12}", value, re.ASCII):
                raise TargetError(f"{key} must be a whole number, got {value[:60]!r}")
            options[key] = int(value)
        else:
            options[key] = value.split(",") if key == "mattr" else value
    if options["kind"] == "cuda":
        host = {key: options.pop(key) for key in CPU_OPTIONS if key in options}
        options |= {"host": host} if host else {}
    return options


def _option_hint(option: str) -> str:
    if option == "march":
        return "the CPU is -mcpu=, the architecture of a GPU -arch="
    close = closest(option, WORD_OPTIONS)
    return f"did you mean -{close}=?" if close else f"options are {_SHOWN}"


def options_from_json(text: str, tags: TagOptions | None) -> dict[str, Any]:
    """Options from TVM's JSON, whose `tag` is looked up."""
    try:
        value = json.loads(text, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        reason = "".join(c if c.isprintable() else "?" for c in str(error))[:200]
        raise TargetError(f"target is not valid JSON: {text[:60]!r} ({reason})") from None
    return options_of_tvm(value, tags)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise TargetError(f"{twice[:60]!r} is given twice in the target's JSON")
    return found


def options_of_tvm(value: Mapping[str, Any], tags: TagOptions | None) -> dict[str, Any]:
    """Options with a tag looked up and with those left out that TVM adds by itself."""
    options = {
        key: entry
        for key, entry in value.items()
        if key not in _TVMS_OWN and not key.startswith("feature.")
    }
    tag = options.pop("tag", "")
    if type(tag) is not str:
        raise TargetError(f"target option tag must be a str, got a {type(tag).__name__}")
    if tag:
        if tags is None:
            raise TargetError(f"unknown target tag {tag[:60]!r}")
        options = options_of_tvm(tags(tag), None) | options
    host = options.get("host")
    if isinstance(host, str) and host.strip().startswith(("llvm", "-")):
        host = options_from_words(host.split())
    if isinstance(host, Mapping):
        if isinstance(host.get("host"), Mapping) and "host" in host["host"]:
            raise TargetError("the host of a target has no host of its own")
        options["host"] = host = options_of_tvm(host, tags)
        if options.get("kind", "llvm") == "llvm":
            # A CPU is its own host. TVM repeats it in some tags.
            if any(host.get(key) != options.get(key) for key in ("mcpu", "mtriple")):
                raise TargetError("the host of an llvm target must be the same CPU")
            del options["host"]
    return options

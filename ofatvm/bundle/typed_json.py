"""Dataclasses to JSON values and back; what comes back is checked against their annotations."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ofatvm.errors import BundleError, TargetError
from ofatvm.target import Target, target_from_dict

MAX_TEXT = 2000


def require(condition: bool, message: str) -> None:
    """BundleError unless the condition holds."""
    if not condition:
        raise BundleError(message)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`: a JSON object; ValueError if a key stands there twice."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands there twice")
    return value


def no_constant(text: str) -> None:
    """For `json.loads`: ValueError for NaN and infinities."""
    raise ValueError(f"{text} is not a number")


def encoded(value: Any) -> Any:
    """A dataclass, mapping or tuple, and what is in it, as JSON values; a target as it is."""
    if is_dataclass(value) and not isinstance(value, type | Target):
        return {entry.name: encoded(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {key: encoded(value[key]) for key in sorted(value)}
    return [encoded(item) for item in value] if isinstance(value, tuple) else value


def decoded(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as the annotated type `kind`; `where` is its place, for the message."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else decoded(arguments[0], value, where)
    if origin is Literal:
        require(value in arguments, f"{where} must be one of {arguments}, got {str(value)[:60]!r}")
        return value
    if origin is tuple:
        _of(list, value, where)
        items = enumerate(value)
        return tuple(decoded(arguments[0], item, f"{where}[{index}]") for index, item in items)
    if origin is dict:
        _of(dict, value, where)
        return {
            key: decoded(arguments[1], item, f"{where}.{key[:80]}") for key, item in value.items()
        }
    if kind is Target:
        return _of_target(value, where)
    if is_dataclass(kind):
        return _of_dataclass(kind, value, where)
    if kind is float and type(value) is int:
        kind = int
    _of(kind, value, where)
    if type(value) is str:
        require(len(value) <= MAX_TEXT, f"{where} is longer than {MAX_TEXT} characters")
    elif type(value) is not bool:
        require(abs(value) < 2**63, f"{where} is out of range")  # NaN is not below it either
    return value


def _of(kind: type, value: Any, where: str) -> None:
    require(type(value) is kind, f"{where} must be a {kind.__name__}, got {type(value).__name__}")


def _of_dataclass(kind: Any, value: Any, where: str) -> Any:
    _of(dict, value, where)
    hints = get_type_hints(kind)
    for key in value:
        require(key in hints, f"{where} has an unknown key {key[:60]!r}")
    lacking = sorted(set(hints) - set(value))
    require(not lacking, f"{where} lacks {', '.join(lacking)}")
    return kind(**{key: decoded(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _of_target(value: Any, where: str) -> Target:
    _of(dict, value, where)
    keys = {"name": str, "options": dict, "threads": int, "fingerprint": str}
    require(set(value) == set(keys), f"{where} must have exactly the keys {', '.join(keys)}")
    for key, kind in keys.items():
        _of(kind, value[key], f"{where}.{key}")
    try:
        target = target_from_dict(
            {**value["options"], "threads": value["threads"]}, name=value["name"]
        )
    except TargetError as error:
        raise BundleError(f"{where} makes no sense: {error.message}") from None
    require(
        target.fingerprint == value["fingerprint"],
        f"{where}.fingerprint is {value['fingerprint'][:20]!r}, its options give "
        f"{target.fingerprint!r}",
    )
    return target

"""Targets of tests, by the text that `--target` takes, with nothing filled in."""

from __future__ import annotations

from ofatvm.target import Target, read_target, target_from_dict
from ofatvm.target_text import TagOptions


def parse_target(text: str, tags: TagOptions | None = None) -> Target:
    """A target from a TVM-style string, a JSON dict, a tag, or the name or path of a TOML file."""
    name, options = read_target(text, tags)
    return target_from_dict(options, name=name)

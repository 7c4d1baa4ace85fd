"""Names and sentences that others gave: what may stand in one line, and in Markdown."""

from __future__ import annotations

import re

# Control characters, line and paragraph separators, halves of surrogate pairs, and what turns the
# direction of all that follows; joiners and marks that a script needs are not among them.
_ODD = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# The same but for line feeds, and for the halves, which stdout escapes.
_OBEYED = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# An underscore within a word is no sign of emphasis.
_MARKDOWN = re.compile(r"([\\`*\[\]~|]|(?<!\w)_|_(?!\w))")


def is_line(text: str) -> bool:
    """Whether it is one line of text, of whatever script, and not blank."""
    return bool(text.strip()) and _ODD.search(text) is None


def one_line(text: str) -> str:
    """The text without line breaks and other control characters."""
    return _ODD.sub(" ", " ".join(text.split()))


def shown(text: str) -> str:
    """Lines without what a terminal would obey instead of showing it."""
    return _OBEYED.sub(" ", text)


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 subnet`, `10,000 subnets`; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def literal(text: str) -> str:
    """Markdown that shows just this text, also in a heading or a table's cell."""
    escaped = _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")

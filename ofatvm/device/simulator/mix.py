"""Which kinds of instructions a piece of assembly has."""

from __future__ import annotations

import re

_X86_BRANCH = re.compile(r"j[a-z]+|call\w*|ret\w*")
_X86_FLOAT = re.compile(r"v?(add|sub|mul|div|max|min|cmp\w*|and|or|xor|sqrt|round)[ps][sd]\b")
_CONDITION = "eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le"
_ARM_BRANCH = re.compile(rf"(b|bl|br|blr|bx|blx|ret|cbz|cbnz|tbz|tbnz|b\.?({_CONDITION}))$")
_LOAD = re.compile(r"v?ld\w*(\.\w+)?$|fl[wdh]$|l[bhwd]u?$|pop$")
_STORE = re.compile(r"v?st\w*(\.\w+)?$|fs[wdh]$|s[bhwd]$|push$")
_FLOAT = re.compile(r"v?f(add|sub|mul|div|max|min|maxnm|minnm|cm|abs|neg|n?mul|sqrt)\w*(\.\w+)?$")
_ARM32_FLOAT = re.compile(r"v(add|sub|mul|max|min|cmp|cgt|abs|neg)\.f")
_MULTIPLY_ADD = re.compile(
    r"v?fn?m(la|ls|add|sub)\w*|vml[as]\.f\w+|vfm[as]\.f\w+|fn?m(add|sub)\.[sd]"
)


def classify(line: str, triple: str) -> list[str]:
    """The classes of one instruction: multiply-add, float, load, store, branch or other.

    x86 arithmetic with an operand in memory is a load, too.
    """
    words = line.split(None, 1)
    name = words[0] if words else ""
    rest = words[1].partition("#" if triple.startswith("x86") else "//")[0] if words[1:] else ""
    if triple.startswith(("x86", "i686")):
        return _x86(name, rest)
    if re.fullmatch(_MULTIPLY_ADD, name):
        return ["multiply-add"]
    if _STORE.match(name):
        return ["store"]
    if _LOAD.match(name):
        return ["load"]
    if _ARM_BRANCH.match(name) or (triple.startswith("riscv") and re.match(r"b\w+z?$|j\w*$", name)):
        return ["branch"]
    if _FLOAT.match(name) or _ARM32_FLOAT.match(name):
        return ["float"]
    return ["other"]


def _x86(name: str, rest: str) -> list[str]:
    if _X86_BRANCH.fullmatch(name):
        return ["branch"]
    memory = "(" in rest and not name.startswith(("lea", "nop", "prefetch"))
    if memory and re.match(r"v?mov|push", name):
        return ["store" if rest.rstrip().endswith(")") else "load"]
    found = ["load"] if memory else []
    if re.match(r"v?fn?m(add|sub)", name):
        return [*found, "multiply-add"]
    if _X86_FLOAT.match(name):
        return [*found, "float"]
    return found or ["other"]

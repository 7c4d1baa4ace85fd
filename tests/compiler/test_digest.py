"""Kept code is found again only by what would make the same: every module that shapes it counts."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from ofatvm.compiler import digest
from ofatvm.compiler.digest import SHAPING, Road, code_digest

PACKAGE = Path(digest.__file__).parents[1]
ROOTS: dict[Road, tuple[str, ...]] = {
    "relax": ("compiler/kernels", "compiler/relax"),
    "relay": ("compiler/relay", "relay/build", "relay/objects"),
    "gpu": ("compiler/gpu",),
}
# Why what is imported shapes no code; what these import is not looked at.
ELSE = {
    "arch": "names networks, by what is in their graphs",
    "compiler/base": "protocols, and the digest of digests",
    "compiler/digest": "this",
    "elf": "reads what was made",
    "errors": "says what is wrong",
    "files": "puts files in their places",
    "machine": "what simulations know of a CPU",
    "paths": "finds files",
    "signals": "ends processes",
    "target_text": "reads what is typed: targets are in the digests by what they are",
}
ELSE_ON: dict[Road, dict[str, str]] = {
    "relax": {"compiler/space": "chooses schedules, which are in the digests"},
    "relay": {
        "compiler/relax": "for the types of programs and weights alone",
        "compiler/relay_env": "runs processes; the versions there are in the digest",
        "compiler/space": "for the type of vector units alone",
        "relay/task": "finds records, which are in the digests",
    },
    "gpu": {"compiler/gpu_measure": "times what was made"},
}


def imported(name: str) -> set[str]:
    """The modules of ofatvm that a module imports, anywhere in it, as in `SHAPING`."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        paths = [text.removeprefix("ofatvm.").replace(".", "/") for text in names]
        found |= {path for path in paths if (PACKAGE / f"{path}.py").is_file()}
    return found


@pytest.mark.parametrize("road", SHAPING)
def test_every_module_that_can_shape_code_is_in_its_road_s_list(road: Road) -> None:
    others = ELSE | ELSE_ON[road]
    open_, reached = list(ROOTS[road]), set()
    while open_:
        name = open_.pop()
        if name in reached or name in others:
            continue
        reached.add(name)
        open_ += imported(name)
    missing = sorted(reached - set(SHAPING[road]))
    assert not missing, f"add {missing} to SHAPING[{road!r}], or say in this test why not"
    assert not set(SHAPING[road]) - reached, "these are imported no more"
    assert not set(SHAPING[road]) & set(others)


def test_every_compiling_module_is_somewhere() -> None:
    somewhere = {name for names in SHAPING.values() for name in names}
    somewhere |= {name for names in (ELSE, *ELSE_ON.values()) for name in names}
    apart = {
        *("compiler/__init__", "compiler/isa", "compiler/probe", "compiler/resolve"),
        *("compiler/triple", "relay/__init__", "relay/about", "relay/load", "relay/run"),
        *("relay/serve", "relay/space"),
    }
    there = {
        f"{folder}/{path.stem}"
        for folder in ("compiler", "relay")
        for path in (PACKAGE / folder).glob("*.py")
    }
    assert there - somewhere == apart, "does a new module shape code?"


@pytest.mark.parametrize("road", SHAPING)
def test_any_of_them_and_any_version_changes_the_digest(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SHAPING[road]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PACKAGE / f"{name}.py", tmp_path / f"{name}.py")
    monkeypatch.setattr(digest, "__file__", str(tmp_path / "compiler" / "digest.py"))
    make = code_digest.__wrapped__
    before = make(road, "0.27")
    assert before == make(road, "0.27")
    assert before != make(road, "0.28")
    for name in SHAPING[road]:
        path = tmp_path / f"{name}.py"
        text = path.read_text()
        path.write_text(text + "\n# another\n")
        assert make(road, "0.27") != before, name
        path.write_text(text)
    assert make(road, "0.27") == before

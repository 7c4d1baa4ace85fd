"""The shape of the code: exported names, import direction, lazy imports, README commands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import ofatvm
from ofatvm.cli.main import LAZY

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("README.md", "docs/figures.md", "tuning_logs/README.md")
PACKAGE = ROOT / "ofatvm"
HEAVY = {"torch", "tvm", "tvm_ffi", "xgboost"}
HEAVY_HOMES = {
    "torch": {"supernet"},
    "tvm": {"compiler", "tuning", "device", "relay"},
    "tvm_ffi": {"compiler", "tuning", "device"},
    "xgboost": {"predict"},
}
# A module may import from its own layer and from those below it.
LAYERS = [
    {"errors"},
    {
        *("arch", "elf", "events", "executor", "files", "graph", "hang", "lock"),
        *("machine", "measurement", "paths", "road", "signals", "spaces", "target"),
        *("target_text", "text", "torchrun"),
    },
    {
        "bundle",
        "compiler",
        "data",
        "device",
        "predict",
        "relay",
        "report",
        "search",
        "store",
        "supernet",
        "tuning",
    },
    {"pipeline"},
    {"cli"},
    {"__main__"},
]


def modules() -> list[Path]:
    """Every module of the package; what ships as data (bundles' runners) is none."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "templates" not in path.parts]


def part(path: Path) -> str:
    """The first name below ofatvm: `cli`, `arch`, ..."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    """The layer of a part of the package."""
    found = [number for number, names in enumerate(LAYERS) if name in names]
    assert found, f"ofatvm/{name} is in no layer: add it to LAYERS in {Path(__file__).name}"
    return found[0]


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module
            assert all(alias.name != "*" for alias in node.names), f"{path} has a star import"
            if node.module == "ofatvm":
                yield from (f"ofatvm.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_the_exported_names() -> None:
    assert ofatvm.__all__ == [
        "SPACES",
        "Arch",
        "ArchSpace",
        "Measurement",
        "OfatvmError",
        "Operator",
        "Store",
        "Totals",
        "__version__",
        "find_space",
        "operator_graph",
        "operators",
        "parse_arch",
        "totals",
    ]
    for name in ofatvm.__all__:
        assert getattr(ofatvm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ofatvm.nonsense  # noqa: B018  (the look-up is the test)


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == ofatvm.__version__


def test_imports_point_downwards() -> None:
    for path in modules():
        own = part(path)
        if own == "__init__":
            continue
        for name in imports(path):
            top, _, rest = name.partition(".")
            if top != "ofatvm" or rest == "__version__":
                continue
            other = rest.split(".")[0]
            where = f"{path.relative_to(ROOT)} imports {name}"
            assert layer(other) <= layer(own), f"{where}, which lies above it"


def test_heavy_libraries_stay_in_their_parts() -> None:
    for path in modules():
        for name in imports(path):
            top = name.split(".")[0]
            if top in HEAVY_HOMES:
                where = f"{path.relative_to(ROOT)} imports {top}"
                assert part(path) in HEAVY_HOMES[top], where


@pytest.mark.parametrize(
    "statement",
    [
        "import ofatvm",
        "from ofatvm import Arch, Store, operator_graph",
        "from ofatvm.cli.main import main; main(['--help'])",
        "from ofatvm.cli.main import main; main(['status'])",
        "from ofatvm.cli.main import main; main(['doctor'])",
    ],
)
def test_heavy_libraries_are_loaded_only_when_used(statement: str, tmp_path: Path) -> None:
    code = f"import sys; {statement}; print('loaded:', sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_help_imports_no_command_and_no_array_library() -> None:
    code = "import sys; from ofatvm.cli.main import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    commands = {entry.partition(":")[0] for entry, _ in LAZY.values()}
    assert not loaded & (commands | HEAVY | {"numpy", "networkx", "sqlite3"})


@pytest.mark.parametrize("name", LAZY)
def test_every_listed_command_exists(name: str) -> None:
    module, _, attribute = LAZY[name][0].partition(":")
    assert getattr(import_module(module), attribute).name == name


@pytest.mark.parametrize("name", TEXTS)
def test_commands_and_options_that_a_text_shows_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```\n(.*?)```", text, re.S)).replace("\\\n", " ")
    written = re.findall(r"\bofatvm ([a-z]+)(.*)", blocks)
    assert written
    for command, words in written:
        module, _, attribute = LAZY[command][0].partition(":")
        found = getattr(import_module(module), attribute)
        groups = getattr(found, "commands", {})
        parameters = [p for one in (found, *groups.values()) for p in one.params]
        known = {option for parameter in parameters for option in parameter.opts}
        shown = set(re.findall(r"(?<= )--[a-z-]+", words.partition(" #")[0]))
        assert shown <= known, (command, words)


def test_files_that_a_text_names_exist() -> None:
    pattern = r"`((?:benchmarks|docs|scripts|targets|tests|tuning_logs)/[\w./-]+\.(?:py|md|toml))"
    for path in (*map(ROOT.joinpath, TEXTS), *ROOT.glob("docs/*.md")):
        for name in re.findall(pattern, path.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), (path, name)


def test_make_goals_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make ([a-z]+)", text, re.M)) <= targets


def test_the_lock_file_satisfies_the_project() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    locked = {pin.name.lower(): str(pin.specifier).removeprefix("==") for pin in pins}
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(locked[wanted.name.lower()]), text


def test_nothing_names_an_absolute_home() -> None:
    for path in [*modules(), ROOT / "README.md", ROOT / "Makefile"]:
        assert not re.search(r"(?<![\w.])/(home|root|work)/", path.read_text(encoding="utf-8")), (
            path
        )

"""Fixtures that every test may use."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ofatvm.pipeline.setup import Setup
    from ofatvm.supernet.folder import SupernetFolder

os.environ.setdefault("OMP_NUM_THREADS", "1")
# pytest-xdist gives its processes a width; here nothing is printed on a terminal.
os.environ.pop("COLUMNS", None)

ROOT = Path(__file__).resolve().parent.parent
IMAGENET_ROWS = ROOT.parent / "shared" / "data" / "imagenet_top1_ofa_mbv3_w1.0_r224.csv"


@dataclass(frozen=True)
class Answer:
    """What a command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="session", autouse=True)
def temporary_folder_of_each_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where several processes test, each has a temporary folder, and so a measuring lock, alone."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("tmp"))
        tempfile.tempdir = None


@pytest.fixture
def ofatvm(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run `ofatvm ARGUMENTS...` in this process."""
    from ofatvm.cli.main import main

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """An empty folder that every user may enter, which those of `tmp_path` are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name).resolve()


@pytest.fixture
def make_measurement() -> Callable[..., Any]:
    """Build a valid measurement; keywords replace its fields."""
    from ofatvm.measurement import Measurement

    def make(**changes: Any) -> Any:
        fields: dict[str, Any] = {
            "arch": "mbv3w1.0/224/33.33-33.33-33.33-33.33-33.33",
            "space": "ofa_mbv3_d234_e346_k357_w1.0",
            "target": "f00d",
            "device": "local",
            "kind": "measured",
            "threads": 2,
            "source": "search",
            "latency_ms": 4.5,
            "p90_ms": 4.9,
            "ci_low_ms": 4.4,
            "ci_high_ms": 4.6,
            "samples_ms": (4.4, 4.5, 4.6),
            "calibration_ratio": 0.98,
            "library": "abc",
            "versions": {"tvm": "0.27.0"},
            "seed": 7,
        }
        return Measurement(**(fields | changes))

    return make


@pytest.fixture
def imagenet_rows() -> Path:
    """The table of measured ImageNet subnets, on machines that have it."""
    if not IMAGENET_ROWS.is_file():
        pytest.skip("the table of ImageNet subnets is not on this machine")
    return IMAGENET_ROWS


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace for all tests with real kernels, so that each is compiled once."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="session")
def bench(workspace: Path) -> Setup:
    """A setup with real kernels at resolution 128 in the shared workspace."""
    from tests.workbench import real_setup

    return real_setup(workspace)


@pytest.fixture
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measuring lock of the test's own: whatever else measures here is no concern of it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture(scope="session")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> SupernetFolder:
    """A supernet folder of the small space; tests that change it work on a copy."""
    from ofatvm.spaces import find_space
    from ofatvm.supernet.folder import read_supernet
    from tests.supernet_folder import make_supernet

    return read_supernet(make_supernet(tmp_path_factory.mktemp("blobs"), find_space("small28")))


@pytest.fixture
def outcome() -> Any:
    """One finished search, as the store keeps it."""
    from tests.outcomes import finished

    return finished()

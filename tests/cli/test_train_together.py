"""`ofatvm train` under torchrun, with two processes for real."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ofatvm.data.download import IDX_FILES
from tests.conftest import ROOT
from tests.data.making import write_mnist

# The command, with the toy's space and a mirror of MNIST that notes what is asked of it.
MIRRORED = """
import hashlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from ofatvm import spaces
from ofatvm.cli.main import main
from ofatvm.data import download
from ofatvm.files import replace_file
from tests.supernet.toy import TOY

mirror, source = Path(sys.argv[1]), download.SOURCES["mnist"]


def fetch(address):
    name = address.removeprefix(source.address)
    with (mirror / "asked").open("a") as file:
        print(name, file=file)
    if (mirror / "slow").exists():
        replace_file(mirror / "slow", str(os.getpid()).encode())
        time.sleep(600)
    if (mirror / "down").exists():
        raise OSError("no route to host")
    return (mirror / name).read_bytes()


sums = [(n, hashlib.md5((mirror / n).read_bytes()).hexdigest()) for n in source.files]
download.SOURCES["mnist"] = replace(source, published=tuple(sums))
download.fetch_https, spaces.SPACES["toy"] = fetch, TOY
torchrun = os.getppid()
while os.environ["RANK"] == "1" and (mirror / "late").exists() and os.getppid() == torchrun:
    time.sleep(0.05)
if __name__ == "__main__":  # processes that evaluate import this file, too
    sys.exit(main(sys.argv[2:]))
"""


LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def together(*words: object) -> subprocess.CompletedProcess[str]:
    """What two processes of torchrun say, when each runs Python with the words."""
    return subprocess.run(
        [*LAUNCHER, *map(str, words)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def test_an_error_that_all_processes_have_is_said_once(tmp_path: Path) -> None:
    data, out = tmp_path / "nowhere", tmp_path / "out"
    done = together("-m", "ofatvm", "train", "--data", data, "--out", out)
    assert len(said(done)) == 1
    assert "nowhere" in said(done)[0]
    assert "exitcode  : 5" in done.stderr, "what torchrun says of the first"


def test_the_first_process_fetches_for_all_and_ends_all_when_it_cannot(tmp_path: Path) -> None:
    script, mirror, out = tmp_path / "mirrored.py", write_mnist(tmp_path / "mirror"), tmp_path / "x"
    script.write_text(MIRRORED)
    words = [
        *(script, mirror, "train", "--data", "mnist", "--download", "--workspace", tmp_path / "ws"),
        *("--space", "toy", "--out", out, "--epochs", 1, "--batch", 8, "--subnets", 40),
        *("--holdout", 10, "--shift", 1),
    ]
    (mirror / "down").touch()
    done = together(*words)
    assert len(said(done)) == 1
    assert "no route to host" in said(done)[0]
    assert "exitcode  : 5" in done.stderr
    (mirror / "down").unlink()
    done = together(*words)
    assert done.returncode == 0, done.stderr
    asked = (mirror / "asked").read_text().split()
    assert [asked.count(name) for name in IDX_FILES] == [2, 1, 1, 1]
    assert (out / "supernet.json").is_file()


@pytest.mark.parametrize("late", [False, True], ids=["both at work", "one still starting"])
def test_processes_end_with_a_torchrun_that_is_killed(tmp_path: Path, late: bool) -> None:
    script, mirror = tmp_path / "mirrored.py", write_mnist(tmp_path / "mirror")
    script.write_text(MIRRORED)
    (mirror / "slow").touch()
    if late:
        (mirror / "late").touch()
    words = (script, mirror, "train", "--data", "mnist", "--download", "--out", tmp_path / "x")
    with subprocess.Popen(
        [*LAUNCHER, *map(str, words), "--workspace", str(tmp_path / "ws")],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.DEVNULL,
    ) as torchrun:
        try:
            assert once(lambda: (mirror / "slow").read_text())
        finally:
            torchrun.kill()
    assert once(lambda: not running(script))


def once(look: Callable[[], Any], seconds: float = 200) -> Any:
    """The first answer that is not empty, nothing if there is none for so long."""
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def running(script: Path) -> list[str]:
    """The processes that run a script; one that nobody has waited for is none."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if bytes(script) in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(process.name)
    return found

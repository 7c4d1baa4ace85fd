from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ofatvm.tuning import ledger as module
from ofatvm.tuning.ledger import Account, Ledger, Session, parse_session, read_ledger

FIELDS: dict[str, Any] = {
    "session": "a1",
    "start": "2026-01-02T03:04:05.000+00:00",
    "target": "x86-64-v3",
    "fingerprint": "f00d",
    "threads": 2,
    "space": "ofa_mbv3_d234_e346_k357_w1.0",
    "resolutions": (224,),
    "workloads": 163,
    "trials_per_workload": 64,
    "started_from": (),
    "machine": {"cpu": "a CPU", "cores": 2},
    "versions": {"apache-tvm": "0.27"},
    "trials": 100,
    "wall_s": 30.0,
    "cpu_s": 50.0,
    "energy_j": 500.0,
    "energy_method": "estimated: CPU-seconds x 10 W a busy core",
    "watts_per_core": 10.0,
    "status": "finished",
}


def session(**changes: Any) -> Session:
    return Session(**(FIELDS | changes))


class Tuning:
    """A journal's trials, and an account of making more."""

    def __init__(self, folder: Path) -> None:
        self.trials = 7
        self.account = Account(
            folder,
            lambda: self.trials,
            target="x86-64-v3",
            fingerprint="f00d",
            threads=2,
            space="a space",
            resolutions=[224],
            workloads=3,
            trials_per_workload=64,
        )


def lines(folder: Path) -> list[bytes]:
    return (folder / "sessions.jsonl").read_bytes().splitlines(keepends=True)


def test_a_line_gives_its_session_back() -> None:
    line = session().to_line().encode()
    assert parse_session(line) == session()
    assert parse_session(line[:-5]) is None
    assert parse_session(line.replace(b"50.0", b"50.1")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"trials": -1},
        {"trials": 1.5},
        {"cpu_s": float("nan")},
        {"wall_s": float("inf")},
        {"energy_j": "many"},
        {"status": "lost"},
        {"resolutions": ("x",)},
        {"started_from": (3,)},
        {"machine": []},
        {"target": 3},
        {"watts_per_core": -1.0},
    ],
    ids=str,
)
def test_a_line_that_makes_no_sense_is_none(change: dict[str, Any]) -> None:
    assert parse_session(session(**change).to_line().encode()) is None


def test_a_run_leaves_one_line(tmp_path: Path) -> None:
    tuning = Tuning(tmp_path)
    with tuning.account as account:
        [running] = read_ledger(tmp_path).sessions
        assert (running.status, running.trials) == ("running", 0)
        tuning.trials += 5
        account.checkpoint()
        assert len(lines(tmp_path)) == 1, "not that often"
    [done] = read_ledger(tmp_path).sessions
    assert (done.status, done.trials) == ("finished", 5)
    assert done.wall_s >= 0
    assert done.cpu_s >= 0
    assert done.energy_method
    assert done.machine["cpu"]
    assert "apache-tvm" in done.versions
    assert len(lines(tmp_path)) == 1


def test_checkpoints_count_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_S", 0.0)
    tuning = Tuning(tmp_path)
    with tuning.account as account:
        for count in (3, 6):
            tuning.trials = 7 + count
            account.checkpoint()
            [running] = read_ledger(tmp_path).sessions
            assert (running.status, running.trials) == ("running", count)
    assert read_ledger(tmp_path).trials == 6


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    tuning = Tuning(tmp_path)

    def interrupted() -> None:
        with tuning.account:
            tuning.trials += 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    [done] = read_ledger(tmp_path).sessions
    assert (done.status, done.trials) == ("interrupted", 1)


def test_an_estimate_states_its_watts_and_can_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([1.0, 1.0, 4.0])
    monkeypatch.setattr(module, "cpu_seconds", lambda: next(seconds))
    monkeypatch.setattr(module, "EnergyMeter", lambda: module_meter(tmp_path))
    with Tuning(tmp_path).account:
        pass
    spent = read_ledger(tmp_path)
    assert (spent.cpu_s, spent.energy_j) == (3.0, 30.0)
    assert spent.energy_methods == ("estimated: CPU-seconds x 10 W a busy core",)
    other = spent.at(4.5)
    assert other.energy_j == pytest.approx(13.5)
    assert "4.5 W" in other.energy_methods[0]


def module_meter(folder: Path) -> Any:
    from ofatvm.tuning.energy import EnergyMeter

    return EnergyMeter(folder / "none")


def test_measured_energy_is_not_reckoned_anew() -> None:
    measured = session(energy_method="RAPL: package-0", watts_per_core=None, energy_j=7.0)
    assert Ledger((measured,)).at(99.0).energy_j == 7.0


def test_sums_and_several_folders_of_a_target(tmp_path: Path) -> None:
    for name, ids in (("a", ("1", "2")), ("b", ("2", "3"))):
        (tmp_path / name).mkdir()
        text = "".join(session(session=number).to_line() for number in ids)
        (tmp_path / name / "sessions.jsonl").write_text(text)
    spent = read_ledger([tmp_path / "a", tmp_path / "b"])
    assert [run.session for run in spent.sessions] == ["1", "2", "3"]
    assert (spent.trials, spent.wall_s, spent.cpu_s, spent.energy_j) == (300, 90.0, 150.0, 1500.0)
    assert read_ledger(tmp_path / "none") == Ledger()


def test_damaged_lines_are_skipped_counted_and_kept(tmp_path: Path) -> None:
    first, second = session(session="1").to_line(), session(session="2").to_line()
    data = first.encode() + b"\xffgarbage\n" + second.encode() + second[:40].encode()
    (tmp_path / "sessions.jsonl").write_bytes(data)
    spent = read_ledger(tmp_path)
    assert ([run.session for run in spent.sessions], spent.damaged) == (["1", "2"], 2)
    with Tuning(tmp_path).account:
        pass
    spent = read_ledger(tmp_path)
    assert (len(spent.sessions), spent.damaged) == (3, 1), "a torn end goes, other damage stays"


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from ofatvm.tuning import ledger
ledger.CHECKPOINT_S = 0.0
trials = 0
account = ledger.Account(Path({folder!r}), lambda: trials, target="t", fingerprint="f",
    threads=1, space="s", resolutions=[224], workloads=1, trials_per_workload=64)
with account as run:
    for trials in range(0, 96, 16):
        run.checkpoint()
    trials = 99
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_costs_the_accounting_since_the_last_line(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    code = KILLED.format(root=root, folder=str(tmp_path))
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    [run] = read_ledger(tmp_path).sessions
    assert (run.status, run.trials) == ("running", 80)
    assert len(lines(tmp_path)) == 7
    with Tuning(tmp_path).account:
        assert len(lines(tmp_path)) == 2, "the killed run's last line and the new one's first"
    assert [r.status for r in read_ledger(tmp_path).sessions] == ["running", "finished"]

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ofatvm.tuning.energy import EnergyMeter, cpu_seconds, this_machine

BURN = "import time\nwhile time.process_time() < 0.4: pass\n"


def domain(root: Path, folder: str, name: str, energy_uj: int, range_uj: int = 10**9) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    return path


def test_an_ended_childs_time_counts() -> None:
    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert cpu_seconds() - before >= 0.35


def test_a_killed_childs_and_its_childs_time_counts() -> None:
    nested = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\n"
    nested += BURN + "print('burnt', flush=True)\ntime.sleep(60)\n"
    before = cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", nested], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"burnt\n"
        assert cpu_seconds() - before >= 0.7, "while it lives"
        child.kill()
    assert cpu_seconds() - before >= 0.7, "when it is gone"


def test_own_time_counts() -> None:
    before = cpu_seconds()
    started = time.process_time()
    while time.process_time() - started < 0.1:
        pass
    assert cpu_seconds() - before >= 0.09


def test_packages_and_memory_are_added_and_parts_are_not(tmp_path: Path) -> None:
    package = domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    memory = domain(tmp_path, "intel-rapl:0:1", "dram", 500_000)
    core = domain(tmp_path, "intel-rapl:0:0", "core", 0)
    system = domain(tmp_path, "intel-rapl:1", "psys", 0)
    meter = EnergyMeter(tmp_path)
    assert meter.method == "RAPL: package-0, dram"
    for path, energy_uj in ((package, 3_000_000), (memory, 1_000_000), (core, 9), (system, 9)):
        (path / "energy_uj").write_text(str(energy_uj))
    assert meter.read() == pytest.approx(2.5)
    assert meter.read() == pytest.approx(2.5)


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path) -> None:
    package = domain(tmp_path, "intel-rapl:0", "package-0", 999_000_000, range_uj=999_999_999)
    meter = EnergyMeter(tmp_path)
    (package / "energy_uj").write_text("1000000")
    assert meter.read() == pytest.approx(2.0)
    (package / "energy_uj").write_text("4000000")
    assert meter.read() == pytest.approx(5.0)


def test_no_counters_no_meter(tmp_path: Path) -> None:
    path = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    (path / "energy_uj").unlink()
    for root in (tmp_path, tmp_path / "none"):
        meter = EnergyMeter(root)
        assert meter.method is None
        assert meter.read() is None


def test_this_machine_has_a_name_and_cores() -> None:
    machine = this_machine()
    assert machine["cpu"]
    assert int(machine["cores"]) >= 1

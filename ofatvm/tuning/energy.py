"""CPU time and energy of this process and of all that it starts."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
from pathlib import Path

RAPL = Path("/sys/class/powercap")
WATTS_PER_CORE = 10.0


def cpu_seconds() -> float:
    """CPU time so far of this process, of its ended children, and of those that run."""
    import psutil

    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    for child in psutil.Process().children(recursive=True):
        # One that ends just now is counted among the ended ones the next time.
        with contextlib.suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return float(total)


def estimate_method(watts_per_core: float) -> str:
    """How energy is reckoned where it cannot be read."""
    return f"estimated: CPU-seconds x {watts_per_core:g} W a busy core"


class EnergyMeter:
    """Energy from RAPL's counters, where they can be read.

    `joules` counts from the start, over all packages and their memory, other programs' share
    included. It must be asked more often than a counter overflows (minutes at full load).
    """

    def __init__(self, root: Path = RAPL) -> None:
        """Find the readable counters below `root` and start at zero."""
        self.joules = 0.0
        self._last: dict[Path, int] = {}
        self._range: dict[Path, int] = {}
        self.domains: list[str] = []
        for folder in sorted(root.glob("intel-rapl:*")):
            try:
                name = (folder / "name").read_text().strip()
                # Cores and graphics are part of their package, psys holds everything twice.
                if not name.startswith(("package", "dram")):
                    continue
                self._range[folder] = int((folder / "max_energy_range_uj").read_text())
                self._last[folder] = int((folder / "energy_uj").read_text())
            except (OSError, ValueError):
                # Only root may read the counters on most machines: then there is no meter.
                self._last.pop(folder, None)
                continue
            self.domains.append(name)

    @property
    def method(self) -> str | None:
        """How the energy was measured; None where it cannot be."""
        return f"RAPL: {', '.join(self.domains)}" if self.domains else None

    def read(self) -> float | None:
        """Joules since the start; None where they cannot be measured."""
        if not self.domains:
            return None
        for folder, last in self._last.items():
            now = int((folder / "energy_uj").read_text())
            difference = now - last
            if difference < 0:
                difference += self._range[folder] + 1
            self.joules += difference / 1e6
            self._last[folder] = now
        return self.joules


def this_machine() -> dict[str, str | int]:
    """CPU model and the cores that may be used."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
                break
    return {"cpu": model, "cores": len(os.sched_getaffinity(0))}

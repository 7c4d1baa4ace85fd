"""The figures of a race between runtimes: paired ratios with intervals, and their table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from contestants import base_name

OURS = "ofatvm"
BOOTSTRAP = 2000
TARGETS = {"ONNX Runtime": (1.0, 0.85), "PyTorch eager": (3.0, 0.0), "torch.compile": (1.1, 0.0)}


def summarise(race: dict[str, Any], seed: int) -> dict[str, Any]:
    """Medians, paired ratios with intervals, geometric means and worst networks."""
    times: dict[tuple[str, str], dict[tuple[int, int], float]] = {}
    for process, number, net, name, ms in race["visits"]:
        times.setdefault((net, name), {})[process, number] = ms
    nets = list(dict.fromkeys(net for net, _ in times))
    names = list(dict.fromkeys(name for _, name in times))
    out = {OURS, *race["disqualified"]}
    rivals = [name for name in race["contestants"] if name in names and name not in out]
    latency = {
        net: {
            name: float(np.median(list(times[net, name].values())))
            for name in names
            if (net, name) in times
        }
        for net in nets
    }
    ratios: dict[str, Any] = {}
    for rival in rivals:
        per_net, boots = {}, []
        places = sorted({place for net in nets for place in times[net, rival]})
        draws = resamples(places, np.random.default_rng(seed))
        for net in nets:
            ours, theirs = times[net, OURS], times[net, rival]
            row = np.array([theirs[place] / ours[place] for place in places])
            boot = np.median(row[draws], axis=1)
            boots.append(boot)
            per_net[net] = {"ratio": float(np.median(row)), "interval": interval(boot)}
        every = [entry["ratio"] for entry in per_net.values()]
        worst = min(per_net, key=lambda net: per_net[net]["ratio"])
        ratios[rival] = {
            "geometric_mean": math.exp(float(np.mean(np.log(every)))),
            "interval": interval(np.exp(np.log(boots).mean(axis=0))),
            "worst": {"network": worst, **per_net[worst]},
            "networks": per_net,
        }
    return {
        "contestants": race["contestants"],
        "disqualified": race["disqualified"],
        "latency_ms": latency,
        "ratios": ratios,
        "visits": [[*where, round(ms, 5)] for *where, ms in race["visits"]],
    }


def resamples(places: Sequence[tuple[int, int]], rng: np.random.Generator) -> np.ndarray:
    """Bootstrap draws (BOOTSTRAP, n) of places: processes first, then rounds within each."""
    groups = [
        np.array([i for i, place in enumerate(places) if place[0] == process])
        for process in sorted({process for process, _ in places})
    ]
    draws = np.empty((BOOTSTRAP, len(places)), dtype=int)
    for row in draws:
        picked = [groups[i] for i in rng.integers(len(groups), size=len(groups))]
        drawn = np.concatenate(
            [group[rng.integers(len(group), size=len(group))] for group in picked]
        )
        row[:] = np.resize(drawn, len(places))
    return draws


def interval(values: np.ndarray) -> list[float]:
    """95 % interval."""
    return [float(value) for value in np.percentile(values, (2.5, 97.5))]


def paid_after(figures: dict[str, Any], tuning_s: float) -> dict[str, Any]:
    """Inferences after which tuning the whole space has paid, on the median network."""
    result: dict[str, Any] = {}
    for rival in figures["ratios"]:
        saved = [ms[rival] - ms[OURS] for ms in figures["latency_ms"].values() if rival in ms]
        gain_ms = float(np.median(saved))
        result[rival] = round(tuning_s * 1e3 / gain_ms) if gain_ms > 0 and tuning_s else None
    return result


def print_table(networks: dict[str, Any], figures: dict[str, Any], threads: int) -> None:
    """One row per network: our milliseconds, then each contestant's and its ratio to ours."""
    rivals = list(figures["ratios"])
    width = {name: max(len(name), 14) for name in rivals}
    print(f"\n{threads} thread{'s' * (threads > 1)}: ms, and ms / ours (* = faster than ofatvm)")
    heads = "  ".join(f"{name:>{width[name]}}" for name in rivals)
    print(f"{'network':18} {'M MACs':>6} {'tuned':>5} {OURS:>8}  {heads}")
    for net, about in networks.items():
        ms = figures["latency_ms"][net]
        cells = []
        for name in rivals:
            entry = figures["ratios"][name]["networks"].get(net)
            text = "-"
            if entry:
                lost = "*" if entry["ratio"] < 1 else " "
                text = f"{ms[name]:.3f} {entry['ratio']:5.2f}{lost}"
            cells.append(f"{text:>{width[name]}}")
        tuned = next(iter(about["coverage"].values()))
        row = f"{net:18} {about['macs'] / 1e6:6.0f} {tuned:5.0%} {ms[OURS]:8.3f}  "
        print(row + "  ".join(cells))
    for rival, entry in figures["ratios"].items():
        low, high = entry["interval"]
        line = f"{rival}: geometric mean {entry['geometric_mean']:.3f} [{low:.3f}, {high:.3f}]"
        line += f", worst {entry['worst']['ratio']:.3f} ({entry['worst']['network']})"
        if base_name(rival) in TARGETS:
            mean, worst = TARGETS[base_name(rival)]
            met = entry["geometric_mean"] >= mean and entry["worst"]["ratio"] >= worst
            wanted = f"{mean:g}" + (f", worst {worst:g}" if worst else "")
            line += f"; target {wanted}: {'met' if met else 'missed'}"
        paid = figures["paid_after"][rival]
        if paid is not None:
            line += f"; tuning paid after {paid:,} inferences"
        print(line)
    for name, why in figures["disqualified"].items():
        print(f"{name} is disqualified: {why}")
    tuning = figures["tuning"]
    hours = tuning["wall_s"] / 3600
    taken = f"{hours:.2f} h, {tuning['trials']} trials" if tuning["wall_s"] else "not on record"
    print(f"tuning of the space's records ({', '.join(tuning['records'])}): {taken}")


def print_versions(result: dict[str, Any]) -> None:
    """The machine, and every contestant's versions, settings and largest output difference."""
    print("\n" + ", ".join(f"{key} {value}" for key, value in result["machine"].items()))
    figures = next(iter(result["threads"].values()))
    for name, entry in figures["contestants"].items():
        versions = ", ".join(f"{key} {value}" for key, value in entry["versions"].items())
        choices = ", ".join(f"{choice} {count} x" for choice, count in entry["choices"].items())
        print(
            f"{name}: {versions}; {entry['setting']}{'; ' + choices if choices else ''}; "
            f"output differs by {entry['difference']:.1e} at most"
        )

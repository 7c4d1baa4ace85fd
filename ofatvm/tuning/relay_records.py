"""AutoTVM's records of the Relay road: its own log format, read without TVM.

A folder `tuning_logs/<target>/relay/` holds `autotvm.log`, one JSON object a line as AutoTVM writes
and reads them, and `target.json` (what was tuned, on what).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ofatvm.compiler.space import VectorUnit
from ofatvm.errors import RecordError
from ofatvm.relay.blocks import Blocking, Config
from ofatvm.relay.task import extents, key_of
from ofatvm.target import Target
from ofatvm.tuning.records import Records, look_up

FOLDER, LOG = "relay", "autotvm.log"
MAX_LINE = 1 << 16
MAX_ENTITIES = 16
KINDS = {"tile_ic": "sp", "tile_oc": "sp", "tile_ow": "sp", "tile_oh": "ot", "unroll_kw": "ot"}
"""What the templates make of each name: a split, or one of several values."""
CONFIRMED = 3
"""Times that a config is timed, in all, where it was among its task's fastest."""


@dataclass(frozen=True, slots=True)
class RelayTrial:
    """One line of a log: the task's key, the config, and seconds, or None for a failed trial."""

    key: str
    config: Config
    seconds: float | None


def find_relay_records(
    target: Target, folders: Sequence[Path], blocking: Blocking, unit: VectorUnit | None = None
) -> Records[Config]:
    """Records of the target itself, then of its family, as `find_records` looks them up.

    Configs that cut channels in another way than `blocking` are left out, and a family's records
    that were made for other vectors than `unit`'s.
    """

    def best(log: Path) -> tuple[dict[str, Config], int]:
        trials, damaged = read_log(log)
        return {k: trial.config for k, trial in best_trials(trials, blocking).items()}, damaged

    return look_up(target, folders, f"{FOLDER}/{LOG}", unit, best)


def read_log(path: Path) -> tuple[list[RelayTrial], int]:
    """The trials of a log, and how many of its lines are no records of AutoTVM.

    RecordError if it cannot be read. Records of other templates and shapes than ofatvm's are
    neither. A line that stands there twice is one trial: it says when it was made.
    """
    trials: list[RelayTrial] = []
    damaged = 0
    for line in dict.fromkeys(log_lines(path)):
        found = parse_line(line)
        damaged += found is None
        trials += found or []
    return trials, damaged


def log_lines(path: Path) -> Iterator[bytes]:
    """The lines of a log that say something; RecordError if it cannot be read.

    A line that is longer than any record comes in pieces, which are none.
    """
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE):
                if line.strip():
                    yield line.strip()
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from None


def parse_line(line: bytes) -> list[RelayTrial] | None:
    """The trial of a line, if its task is one of ours; None if it is no line of a log."""
    try:
        value = json.loads(line.decode())
        (_, template, arguments, *_), config = value["input"], value["config"]
        costs, error, *_ = value["result"]
        entity = config["entity"]
        seconds = sum(map(float, costs)) / len(costs) if error == 0 else None
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return None
    if not isinstance(template, str) or not _is_config(entity):
        return None
    if seconds is not None and not 0 < seconds < math.inf:
        return None
    key = key_of(template, arguments)
    return [] if key is None else [RelayTrial(key, json.dumps(entity), seconds)]


def named_target(line: bytes) -> str:
    """The target that a line of a log was made for, as TVM writes it."""
    return str(json.loads(line.decode())["input"][0])


def is_for(text: str, target: Target) -> bool:
    """Whether a log's target is the CPU of `target`; attributes count where the log names them."""
    kind, *words = text.split() or [""]
    options = dict(word[1:].partition("=")[::2] for word in words if word.startswith("-"))
    named = options.get("mattr", "")
    same = not named or set(named.split(",")) == set(target.mattr)
    return (kind, options.get("mcpu", "")) == (target.kind, target.mcpu) and same


def best_trials(trials: Iterable[RelayTrial], blocking: Blocking) -> dict[str, RelayTrial]:
    """Task key -> the fastest trial whose channels are cut as `blocking` cuts them.

    Of a task's configs, those that were timed at least `CONFIRMED` times stand for it, each with
    the median of its times: the fastest few are timed again, and one lucky time proves nothing.
    Where none was, it is those that were timed most often. A config whose last trial failed is out.
    """
    times: dict[str, dict[Config, list[float]]] = {}
    for trial in trials:
        if trial.seconds is None:
            times.get(trial.key, {}).pop(trial.config, None)
        elif fits(trial, blocking):
            times.setdefault(trial.key, {}).setdefault(trial.config, []).append(trial.seconds)
    best: dict[str, RelayTrial] = {}
    for key, found in times.items():
        if not found:
            continue
        enough = min(CONFIRMED, max(map(len, found.values())))
        medians = {c: median(seconds) for c, seconds in found.items() if len(seconds) >= enough}
        config = min(medians, key=medians.__getitem__)
        best[key] = RelayTrial(key, config, medians[config])
    return best


def fits(trial: RelayTrial, blocking: Blocking) -> bool:
    """Whether a config is a point of its template, and cuts tensors as they are cut."""
    most = extents(trial.key)
    entities = json.loads(trial.config)
    if any(kind != KINDS.get(name, kind) for name, kind, _ in entities):
        return False
    if len({name for name, _, _ in entities}) < len(entities):
        return False
    tiles = {name: size if kind == "ot" else size[-1] for name, kind, size in entities}
    return (
        tiles.keys() == most.keys()
        and all(0 <= tiles[name] <= most[name] for name in most)
        and all(tiles[name] > 0 for name in most if name.startswith("tile"))
        and all(tiles[name] == blocking.block(most[name]) for name in ("tile_ic", "tile_oc"))
    )


def _is_config(entity: Any) -> bool:
    """Whether a config's entities are names with whole numbers, as templates of convolutions have.

    They reach the compiler as they are, so nothing else may pass.
    """
    if not isinstance(entity, list) or len(entity) > MAX_ENTITIES:
        return False
    for item in entity:
        if not isinstance(item, list) or len(item) != 3:
            return False
        name, kind, value = item
        if not isinstance(name, str) or not name.isidentifier():
            return False
        if kind == "sp":
            if not isinstance(value, list) or len(value) != 2:
                return False
            if any(type(size) is not int or not -1 <= size <= 4096 for size in value):
                return False
        elif kind != "ot" or type(value) not in (int, bool) or abs(value) > 4096:
            return False
    return True


def relay_folder(tuning_logs: Path, target: Target) -> Path:
    """Where a target's own records are."""
    return tuning_logs / target.record_names[0] / FOLDER

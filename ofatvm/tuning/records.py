"""Tuning records: which schedule is the best known for each workload, and TVM's own files of them.

Every folder `tuning_logs/<target>/` holds `target.json` (what was tuned, on what), `trials.jsonl`
(the journal, see `journal.py`) and, made from it, `database_workload.json` and
`database_tuning_record.json`: the best record per workload in MetaSchedule's format.
"""

from __future__ import annotations

import base64
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.schedule import ScheduleConfig, scheduled, scheduled_module
from ofatvm.compiler.space import VectorUnit
from ofatvm.errors import RecordError
from ofatvm.files import read_file, replace_file, scratch
from ofatvm.measurement import Kind
from ofatvm.target import Target
from ofatvm.text import counted
from ofatvm.tuning.journal import JOURNAL_FILE, Journal, Trial

if TYPE_CHECKING:
    from tvm import IRModule
    from tvm.s_tir import Schedule

WORKLOADS_FILE = "database_workload.json"
RECORDS_FILE = "database_tuning_record.json"
TARGET_FILE = "target.json"
SCHEMA = 1


C = TypeVar("C")
Entry: TypeAlias = "tuple[IRModule, Schedule, Sequence[float]]"


@dataclass(frozen=True, slots=True)
class Records(Generic[C]):
    """The best known schedules that serve a target, and where each set came from.

    `configs` maps the keys of workloads, or of tasks, to schedules; `sources` names the targets
    they were tuned for, nearest first, with how many each gave; `damaged` counts lines that could
    not be read.
    """

    configs: dict[str, C]
    sources: dict[str, int]
    damaged: int = 0

    foreign: tuple[Path, ...] = ()
    """Folders of the target's name that were left alone because they belong to another target."""

    @property
    def borrowed(self) -> bool:
        """Whether none of the records was tuned for this very target and thread count."""
        return bool(self.sources) and not next(iter(self.sources.values()))


def find_records(
    target: Target, folders: Sequence[Path], unit: VectorUnit | None = None
) -> Records[ScheduleConfig]:
    """Records of the target itself, then of its family, from several `tuning_logs` folders.

    Records of other targets are never used: the look-up goes by folder, and a folder says what it
    is. A family's records for other vectors than those of `unit` are left out: default schedules
    are faster, and tuning starts from them all the same (`siblings.py`).
    """

    def best(journal_file: Path) -> tuple[dict[str, ScheduleConfig], int]:
        journal = Journal.read(journal_file.parent)
        return {k: trial.config for k, trial in journal.best_of_all().items()}, journal.damaged

    return look_up(target, folders, JOURNAL_FILE, unit, best)


def look_up(
    target: Target,
    folders: Sequence[Path],
    file: str,
    unit: VectorUnit | None,
    best: Callable[[Path], tuple[Mapping[str, C], int]],
) -> Records[C]:
    """What `best` makes of each `file` below a folder of the target or of its family.

    `best` gives the configs that a file holds, and how many of its lines are damaged.
    """
    configs: dict[str, C] = {}
    sources: dict[str, int] = {}
    foreign: list[Path] = []
    damaged = 0
    own = (target.record_names[0], target.name)
    for name in target.record_names:
        before = len(configs)
        for found in dict.fromkeys(path.resolve() / name / file for path in folders):
            folder = found.parent
            if not found.is_file():
                continue
            if name in own and not belongs_to(read_owner(folder), target):
                foreign.append(folder)
                continue
            if unit is not None and name not in own and not made_for(folder, unit):
                continue
            here, broken = best(found)
            damaged += broken
            for key, config in here.items():
                configs.setdefault(key, config)
        sources[name] = len(configs) - before
    kept = {name: count for name, count in sources.items() if count or name == own[0]}
    return Records(configs, kept, damaged, tuple(foreign))


def made_for(folder: Path, unit: VectorUnit) -> bool:
    """Whether a folder's records were made for such vectors, or it does not say."""
    if not (folder / TARGET_FILE).is_file():
        return True
    owner = read_unit(folder)
    return (owner.lanes, owner.registers) == (unit.lanes, unit.registers)


def is_workload(key: str) -> bool:
    """Whether this version knows such a workload; journals may hold others' too."""
    try:
        Workload.parse(key)
    except RecordError:
        return False
    return True


def read_owner(folder: Path) -> dict[str, Any] | None:
    """TVM's dict of the target a folder's records were tuned for; None if it does not say."""
    path = folder / TARGET_FILE
    try:
        return dict(json.loads(read_file(path))["target"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RecordError(
            f"{path} is damaged", hint="restore it, or delete the folder to tune afresh"
        ) from None


def check_owner(folder: Path, target: Target, unit: VectorUnit | None, kind: Kind) -> None:
    """Raise RecordError if new trials cannot stand beside those of the folder.

    They can if they are of the same target, on as many threads, and measured or simulated alike. A
    GPU has no vector `unit`.
    """
    hint = "give another --tuning-logs folder; tuning starts from what is known"
    owner = read_owner(folder)
    if owner is None:
        return
    if not belongs_to(owner, target):
        raise RecordError(
            f"{folder} holds records of {owner}, not of {target.to_dict()}", hint=hint
        )
    kept = read_kind(folder)
    threads = read_unit(folder).threads if unit is not None else 0
    if unit is not None and threads != unit.threads:
        raise RecordError(
            f"{folder} holds trials of {counted(threads, 'thread')}, this run has {unit.threads}",
            hint=hint,
        )
    if kept not in (kind, ""):
        raise RecordError(f"{folder} holds {kept} trials, those of this run are {kind}", hint=hint)


def read_kind(folder: Path) -> str:
    """Whether a folder's trials are measured or simulated; empty if it does not say."""
    path = folder / TARGET_FILE
    try:
        return str(json.loads(read_file(path)).get("kind", ""))
    except FileNotFoundError:
        return ""
    except (ValueError, AttributeError, RecursionError):
        raise RecordError(f"{path} is damaged", hint="restore it") from None


def belongs_to(owner: dict[str, Any] | None, target: Target) -> bool:
    """Whether code for a folder's owner and for the target is the same; cores make no difference.

    A folder that names no owner (None) belongs to whoever has its name.
    """
    return owner is None or {**owner, "num-cores": 0} == {**target.to_dict(), "num-cores": 0}


def read_unit(folder: Path) -> VectorUnit:
    """The vector unit a folder's trials ran on; RecordError if it does not say."""
    path = folder / TARGET_FILE
    try:
        unit = VectorUnit(**json.loads(read_file(path))["unit"])
    except FileNotFoundError:
        raise RecordError(f"{path} is missing", hint="restore it") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RecordError(f"{path} is damaged", hint="restore it") from None
    if any(type(number) is not int or number < 1 for number in astuple(unit)):
        raise RecordError(f"{path} is damaged", hint="restore it")
    return unit


def write_owner(
    folder: Path,
    target: Target,
    unit: VectorUnit | None,
    kind: Kind,
    versions: Mapping[str, str] | None = None,
) -> None:
    """Say in the folder what is tuned there, on what machine and with what.

    `kind` says whether trials are measured or simulated; `versions` are those of the compiler,
    TVM's of this process unless given. RecordError if the folder holds others' trials.
    """
    check_owner(folder, target, unit, kind)
    if versions is None:
        versions = {name: metadata.version(name) for name in ("apache-tvm", "apache-tvm-ffi")}
    value = {
        "schema": SCHEMA,
        "target": target.to_dict(),
        "fingerprint": target.fingerprint,
        "unit": None if unit is None else asdict(unit),
        "kind": kind,
        "tuned_on": platform.processor() or platform.machine(),
        "versions": dict(versions),
    }
    replace_file(folder / TARGET_FILE, (json.dumps(value, indent=1) + "\n").encode())


def write_database(folder: Path, target: Target, best: Mapping[str, Trial[ScheduleConfig]]) -> int:
    """Write TVM's files from the best trial of each workload key; returns how many records."""

    def entries() -> Iterator[Entry]:
        for key, trial in best.items():
            workload = Workload.parse(key)
            module = scheduled_module(workload, trial.config)
            yield module, scheduled(workload, trial.config), trial.seconds

    return write_records(folder, target, entries())


def write_records(folder: Path, target: Target, entries: Iterable[Entry]) -> int:
    """Write TVM's files, each replaced whole, of modules, their schedules and seconds."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    built_for, count = tvm.target.Target(target.to_dict()), 0
    with scratch("records") as temporary:
        database = ms.database.JSONDatabase(work_dir=str(temporary))
        for module, schedule, seconds in entries:
            entry = database.commit_workload(module)
            arguments = ms.arg_info.ArgInfo.from_prim_func(schedule.mod["main"])
            database.commit_tuning_record(
                ms.database.TuningRecord(schedule.trace, entry, list(seconds), built_for, arguments)
            )
            count += 1
        workloads = (temporary / WORKLOADS_FILE).read_bytes() if count else b""
        records = (temporary / RECORDS_FILE).read_bytes() if count else b""
    # A reader between the two renames sees records that point at equal or missing lines only
    # because both files list workloads in one order; `database_damage` catches the rest.
    replace_file(folder / WORKLOADS_FILE, b"".join(map(_minified, workloads.splitlines())))
    replace_file(folder / RECORDS_FILE, records)
    return count


def database_damage(folder: Path) -> str:
    """What is wrong with TVM's files in a folder, as one line; "" when they are well."""
    absent = [name for name in (WORKLOADS_FILE, RECORDS_FILE) if not (folder / name).exists()]
    if absent:
        return f"{absent[0]} is missing" if len(absent) == 1 else ""
    workloads = (folder / WORKLOADS_FILE).read_bytes()
    records = (folder / RECORDS_FILE).read_bytes()
    if (workloads and not workloads.endswith(b"\n")) or (records and not records.endswith(b"\n")):
        return "the last line is torn"
    count = workloads.count(b"\n")
    for name, data in ((WORKLOADS_FILE, workloads), (RECORDS_FILE, records)):
        for number, line in enumerate(data.splitlines(), 1):
            try:
                value = json.loads(line)
                if name == WORKLOADS_FILE:
                    json.loads(base64.b64decode(value[1], validate=True)[8:])
                elif not 0 <= value[0] < count:
                    return f"{name} line {number} points at a workload that is not there"
            except (ValueError, TypeError, LookupError, RecursionError):
                return f"{name} line {number} is damaged"
    return ""


def _minified(line: bytes) -> bytes:
    """A workload line with its module's JSON without white space: half the size, same module."""
    shash, packed = json.loads(line)
    raw = base64.b64decode(packed)
    body: Any = json.dumps(json.loads(raw[8:]), separators=(",", ":")).encode()
    # TVM writes the string's length before it, 8 bytes little-endian.
    packed = base64.b64encode(len(body).to_bytes(8, "little") + body).decode()
    return (json.dumps([shash, packed]) + "\n").encode()

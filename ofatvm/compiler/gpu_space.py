"""MetaSchedule's schedule space of a GPU's kernels: contexts that search it, and traces replayed.

A point of the space is a trace, kept as the JSON text that TVM gives; "" is the default schedule
(`gpu_schedule`). The rules are those of MetaSchedule for CUDA without tensor cores, whose numbers
are not float32, and without asynchronous copies into shared memory: nothing here can run a kernel
to see whether these are right, and no board is asked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ofatvm.compiler.plan import Workload
from ofatvm.compiler.primfunc import workload_module
from ofatvm.errors import RecordError

if TYPE_CHECKING:
    from tvm import tirx
    from tvm.s_tir import Schedule
    from tvm.s_tir.meta_schedule import TuneContext

DEFAULT = ""
MAX_TRACE = 1 << 18
POPULATION = 64
GENERATIONS = 2
AT_RANDOM = 0.15
"""Of a batch, the share that no model chooses; TVM's own share of a batch of eight is none."""
SYNCHRONOUS = "sm_75"
"""From sm_80 on MetaSchedule's tiling copies asynchronously; other rules ask for limits only."""
_INTRINSICS = "tvm.s_tir.tensor_intrin"


def tune_context(
    workload: Workload, target: Mapping[str, Any], *, seed: int, threads: int
) -> TuneContext:
    """A search over a workload's schedules, to be begun with `pre_tuning`.

    `target` is TVM's dict of it, with the limits of a GPU. For an llvm target the rules are
    MetaSchedule's for CPUs: that serves tests.
    """
    import tvm
    from tvm.s_tir import meta_schedule as ms

    _leave_intrinsics_out()
    kind = str(target["kind"])
    searched = {**target, "arch": SYNCHRONOUS} if kind == "cuda" else dict(target)
    return ms.TuneContext(
        mod=workload_module(workload),
        target=tvm.target.Target(searched),
        space_generator=ms.space_generator.PostOrderApply(
            sch_rules=kind, postprocs=kind, mutator_probs=kind
        ),
        search_strategy=ms.search_strategy.EvolutionarySearch(
            population_size=POPULATION,
            init_min_unmeasured=POPULATION // 4,
            genetic_num_iters=GENERATIONS,
            eps_greedy=AT_RANDOM,
        ),
        task_name=workload.key,
        rand_state=seed % (2**31 - 2) + 1,
        num_threads=threads,
    )


def trace_text(schedule: Schedule) -> str:
    """A schedule's trace as one line of JSON."""
    assert schedule.trace is not None
    trace = schedule.trace.as_json(remove_postproc=False)
    return json.dumps(_plain(trace), separators=(",", ":"))


def check_trace(text: Any) -> str:
    """The text, if it may be a trace; ValueError or TypeError if not."""
    if not isinstance(text, str) or len(text) > MAX_TRACE:
        raise TypeError("a trace is text")
    if text != DEFAULT:
        try:
            instructions, decisions = json.loads(text)
        except RecursionError:
            raise ValueError("a trace of brackets") from None
        if not isinstance(instructions, list) or not isinstance(decisions, list):
            raise TypeError("a trace is two lists")
    return text


def replayed(workload: Workload, trace: str) -> Schedule:
    """The workload's schedule by a trace; RecordError if the trace is none of it."""
    from tvm import s_tir

    schedule = s_tir.Schedule(workload_module(workload))
    try:
        s_tir.schedule.Trace.apply_json_to_schedule(json.loads(trace), schedule)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise RecordError(
            f"a tuning record of {workload.key} does not apply: {text[-1][:160]}",
            hint="give another --tuning-logs folder; `ofatvm tune` makes records",
        ) from None
    return schedule


def kernel_of(workload: Workload, trace: str) -> tirx.PrimFunc:
    """The workload's function under a trace; see `replayed`."""
    return replayed(workload, trace).mod["main"]


def _plain(value: Any) -> Any:
    """TVM's arrays, numbers and strings as Python's."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "value"):
        return _plain(value.value)
    return [_plain(item) for item in value]


def _leave_intrinsics_out() -> None:
    """Keep TVM from importing its tensor intrinsics, which takes half a minute and serves none."""
    import tvm.s_tir

    if _INTRINSICS not in sys.modules:
        empty = ModuleType(_INTRINSICS)
        empty.__path__ = []
        sys.modules[_INTRINSICS] = empty
        tvm.s_tir.tensor_intrin = empty

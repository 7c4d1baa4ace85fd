"""The search over a GPU's schedules: what is tried, in what order, and what it learns from."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ofatvm.compiler.gpu_space import DEFAULT
from ofatvm.compiler.plan import Workload
from ofatvm.events import Event
from ofatvm.target import target_from_dict
from ofatvm.tuning import gpu_tune
from ofatvm.tuning.gpu_tune import tune_gpu
from ofatvm.tuning.traces import TRACES_FILE, TraceJournal, find_traces
from ofatvm.tuning.tune import TuningSummary
from ofatvm.tuning.workers import Timing
from ofatvm.tuning.workloads import WorkloadUse
from tests.compiler.test_gpu_schedule import CUDA

TARGET = target_from_dict(CUDA, name="gpu")
POINTWISE = Workload.parse("pointwise_14x14x16_48_relu")
DENSE = Workload.parse("dense_7_13")
Found = tuple[tuple[float, ...], str]


class Board:
    """A bench whose times follow from the schedules."""

    disturbed = 0

    def __init__(self, time: Callable[[str], Found]) -> None:
        self.time = time
        self.tried: list[tuple[str, str]] = []

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None: ...

    def measure(self, jobs: Sequence[tuple[Workload, str]], timing: Timing) -> list[Found]:
        self.tried += [(workload.key, trace) for workload, trace in jobs]
        return [self.time(trace) for _, trace in jobs]


def steady(trace: str) -> Found:
    return (1e-6 * (len(trace) or 10**5),), ""


def run(
    folder: Path, board: Board, trials: int, *workloads: Workload, **options: object
) -> TuningSummary:
    uses = [WorkloadUse(w, 1.0, float(w.macs), 1 / len(workloads)) for w in workloads]
    with TraceJournal.open(folder) as journal:
        return tune_gpu(uses, TARGET, journal, board, trials_per_workload=trials, **options)  # type: ignore[arg-type]


def test_the_default_comes_first_and_nothing_twice(tmp_path: Path) -> None:
    board = Board(steady)
    summary = run(tmp_path, board, 10, POINTWISE, DENSE)
    assert (summary.workloads, summary.complete, summary.new_trials) == (2, 2, 20)
    journal = TraceJournal.read(tmp_path)
    for workload in (POINTWISE, DENSE):
        tried = [trial.config for trial in journal.trials[workload.key]]
        assert tried[0] == DEFAULT
        assert len(set(tried)) == len(tried) == 10
    records = find_traces(TARGET, [tmp_path.parent])
    assert records.configs == {}, "a folder serves the target of its name alone"


def test_a_run_goes_on_and_does_not_try_again(tmp_path: Path) -> None:
    run(tmp_path, Board(steady), 5, POINTWISE)
    lines = (tmp_path / TRACES_FILE).read_bytes()
    board = Board(steady)
    summary = run(tmp_path, board, 12, POINTWISE)
    assert (summary.new_trials, summary.trials) == (7, 12)
    assert (tmp_path / TRACES_FILE).read_bytes().startswith(lines)
    tried = [trial.config for trial in TraceJournal.read(tmp_path).trials[POINTWISE.key]]
    assert len(set(tried)) == 12


def test_failures_are_kept_and_the_default_stays_the_record(tmp_path: Path) -> None:
    board = Board(lambda trace: ((1e-4,), "") if trace == DEFAULT else ((), "run: no such luck"))
    summary = run(tmp_path, board, 6, POINTWISE)
    assert (summary.run_failures, summary.build_failures, summary.complete) == (5, 0, 1)
    best = TraceJournal.read(tmp_path).best(POINTWISE.key)
    assert best is not None
    assert best.config == DEFAULT


def test_time_out_starts_no_more_trials(tmp_path: Path) -> None:
    board = Board(steady)
    summary = run(tmp_path, board, 5, POINTWISE, time_budget_s=-1.0)
    assert (summary.new_trials, summary.complete, board.tried) == (0, 0, [])


def test_a_search_that_breaks_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = gpu_tune.tune_context

    def broken(workload: Workload, *words: object, **options: object) -> object:
        if workload == DENSE:
            raise RuntimeError("Check failed:\n  no rule applies")
        return context(workload, *words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(gpu_tune, "tune_context", broken)
    said: list[Event] = []
    summary = run(tmp_path, Board(steady), 4, DENSE, POINTWISE, on_event=said.append)
    assert (summary.new_trials, summary.complete) == (1 + 4, 1), "a broken search is not complete"
    [notice] = [event for event in said if "search for dense_7_13 broke" in str(event)]
    assert "no rule applies" in str(notice)


def test_a_cost_model_that_breaks_ends_its_search_and_no_trial_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no label")

    monkeypatch.setattr(gpu_tune._Task, "_update", broken)
    said: list[Event] = []
    summary = run(tmp_path, Board(steady), 12, POINTWISE, on_event=said.append)
    kept = len(TraceJournal.read(tmp_path).trials[POINTWISE.key])
    assert 1 < summary.new_trials == kept < 12
    assert any("search for pointwise_14x14x16_48_relu broke: no label" in str(e) for e in said)


def test_damaged_lines_are_moved_away(tmp_path: Path) -> None:
    run(tmp_path, Board(steady), 3, POINTWISE)
    path = tmp_path / TRACES_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"garbage\n" + lines[1].replace(b"GetSBlock", b"GetSB1ock"))
    with TraceJournal.open(tmp_path) as journal:
        assert journal.damaged == 2
        assert [trial.config for trial in journal.trials[POINTWISE.key]] == [DEFAULT]
    assert (tmp_path / "trials.damaged").is_file()


def test_candidates_that_a_small_budget_leaves_are_tried_later(tmp_path: Path) -> None:
    board = Board(steady)
    uses = [WorkloadUse(POINTWISE, 1.0, float(POINTWISE.macs), 1.0)]
    with TraceJournal.open(tmp_path) as journal:
        tune_gpu(uses, TARGET, journal, board, trials_per_workload=11)
    tried = [trace for _, trace in board.tried[:11]]
    assert len(set(tried)) == 11


def test_an_interrupt_while_tvm_searches_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = gpu_tune.tune_context

    def interrupted(*words: object, **options: object) -> object:
        signal.raise_signal(signal.SIGINT)
        return context(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(gpu_tune, "tune_context", interrupted)
    # Other tests of this process may leave interrupts to their parent.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Board(steady), 4, POINTWISE)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(TraceJournal.read(tmp_path).trials[POINTWISE.key]) == 1


def test_traces_of_another_tvm_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "gpu"
    folder.mkdir()
    run(folder, Board(steady), 3, POINTWISE)
    (folder / TRACES_FILE).rename(folder / "traces-00000000.jsonl")
    assert find_traces(TARGET, [tmp_path]).configs == {}
    assert run(folder, Board(steady), 3, POINTWISE).new_trials == 3
    assert find_traces(TARGET, [tmp_path]).configs.keys() == {POINTWISE.key}

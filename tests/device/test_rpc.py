"""What candidates do to boards, and what boards may not be."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from ofatvm.compiler.relax import Program
from ofatvm.device import rpc
from ofatvm.device.rpc import RpcDevice
from ofatvm.device.rpc_board import Options, listen
from ofatvm.device.rpc_boards import BoardPool, Done, Failed, differences
from ofatvm.device.timing import Latency, Protocol
from ofatvm.errors import DeviceError
from ofatvm.events import Event, Notice
from ofatvm.pipeline.measure import programs_for
from ofatvm.pipeline.setup import CALIBRATION, Setup
from tests.device.test_local import library
from tests.rpc_boards import KEY, Stage, free_port, staged, until

VISIT = Protocol(processes=1, rounds=1, block_ms=4.0, warmup_ms=1.0)
ROUNDS = Protocol(processes=1, rounds=3, block_ms=4.0, warmup_ms=1.0)


@pytest.fixture(scope="module")
def program(bench: Setup) -> Program:
    return programs_for(bench, [bench.space.smallest()])[0]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(1) as stage:
        yield stage


def device(bench: Setup, stage: Stage, **options: object) -> RpcDevice:
    kernels = bench.library.require(CALIBRATION)
    calibration = [kernels[workload] for workload in CALIBRATION]
    return RpcDevice(stage.address, 1, calibration, 1e-3, **options)  # type: ignore[arg-type]


def test_crashing_and_hanging_programs_are_given_up_and_the_others_measured(
    bench: Setup, program: Program, tmp_path: Path, stage: Stage
) -> None:
    crash = library(tmp_path, "crash", "*(volatile int *)0 = 1;")
    hang = library(tmp_path, "hang", "for (;;);")
    sleep = library(tmp_path, "sleep", "for (;;) sleep(1);")
    with device(bench, stage, timeout_s=12.0) as boards:
        first, crashed, hung, slept, last = boards.measure(
            [
                program,
                *(Program(path, program.kernels, program.sizes) for path in (crash, hang, sleep)),
                program,
            ],
            ROUNDS,
            seed=3,
        )
        assert boards.boards.losses == 0, "every failure is put down to its program"
    assert isinstance(first, Latency)
    assert isinstance(last, Latency)
    assert len(first.visits_ms) == len(last.visits_ms) == ROUNDS.rounds
    assert isinstance(crashed, str)
    assert hung == slept == "took longer than 6 s"


def test_boards_are_reached_by_ipv6(bench: Setup, program: Program) -> None:
    with contextlib.ExitStack() as held:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            pytest.skip(f"this machine has no IPv6: {error}")
        stage = held.enter_context(staged(1, "--bind", "::1", host="::1"))
        boards = held.enter_context(device(bench, stage))
        [found] = boards.measure([program], VISIT, seed=1)
    assert isinstance(found, Latency)


def test_a_board_that_cannot_listen_says_so_in_one_line() -> None:
    for bind in ("203.0.113.1", "2001:db8::1", "no.such.host.invalid"):
        with pytest.raises(SystemExit, match=f"^cannot listen on {bind}, port 0: ") as ended:
            listen(Options("board", ("127.0.0.1", 9190), bind))
        assert "\n" not in str(ended.value)


@pytest.mark.parametrize("boards", [1, 2, 3])
def test_a_crash_is_put_down_to_its_program_however_many_boards_there_are(
    boards: int, bench: Setup, program: Program, tmp_path: Path
) -> None:
    crash = library(tmp_path, "crash", "*(volatile int *)0 = 1;")
    specs = [(str(path), program.sizes) for path in (crash, program.path)]
    crashing, good = [(rpc.visit_program, (spec, specs[1], 1.0, 20.0)) for spec in specs]
    with staged(boards) as stage, device(bench, stage, timeout_s=24.0) as opened:
        for jobs in ([crashing], [good, crashing, good]):
            found = dict(opened.boards.run(jobs))
            assert [isinstance(found[n], Failed) for n in range(len(jobs))] == [
                job is crashing for job in jobs
            ]


def test_one_failure_is_forgiven(
    bench: Setup, program: Program, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with device(bench, stage) as boards:
        run, failures = boards.boards.run, ["once"]

        def sometimes(jobs: object) -> object:
            for number, found in run(jobs):  # type: ignore[arg-type]
                if failures:
                    failures.pop()
                    found = Failed("a hiccup")
                yield number, found

        monkeypatch.setattr(boards.boards, "run", sometimes)
        [found] = boards.measure([program], ROUNDS, seed=0)
    assert isinstance(found, Latency)
    assert len(found.visits_ms) == ROUNDS.rounds - 1


def test_work_is_spread_over_all_boards(stage: Stage, bench: Setup, program: Program) -> None:
    with staged(2) as two, device(bench, two) as boards:
        pool = boards.boards
        spec = (str(program.path), program.sizes)
        job = (rpc.visit_program, (spec, spec, 1.0, 300.0))
        found = dict(pool.run([job] * 8))
        assert sorted(found) == list(range(8))
        assert all(isinstance(done, Done) for done in found.values())
        assert len({done.board for done in found.values() if isinstance(done, Done)}) == 2
        pool.release()
        until(lambda: two.free() == 2)


def test_a_plain_tvm_server_does_with_a_warning(bench: Setup, program: Program) -> None:
    events: list[Event] = []
    with staged(0) as stage:
        stage.start_plain_board()
        until(lambda: stage.free() == 1)
        with device(bench, stage, on_event=events.append) as boards:
            [found] = boards.measure([program], ROUNDS, seed=0)
    assert isinstance(found, Latency)
    [event] = events
    assert isinstance(event, Notice)
    assert "version" in event.text
    assert "unknown" in event.text


def test_another_version_is_refused(bench: Setup, program: Program) -> None:
    own = metadata.version("apache-tvm-ffi")
    code = (
        "from ofatvm.device import rpc_board as b\n"
        "b.versions = lambda: {'tvm': '0.99', 'ffi': '0.1', 'python': '3'}\n"
        "b.serve(b.parsed_arguments()[0])"
    )
    with staged(0) as stage:
        tracker = f"127.0.0.1:{stage.port}"
        stage.start("-c", code, "--key", KEY, "--threads", 1, "--tracker", tracker)
        until(lambda: stage.free() == 1)
        with (
            device(bench, stage) as boards,
            pytest.raises(DeviceError, match=r"apache-tvm 0\.99, this side has"),
        ):
            boards.measure([program], VISIT, seed=0)
    described = {"tvm": metadata.version("apache-tvm"), "ffi": own, "threads": 1}
    assert differences(described, 1) == []
    assert len(differences(described | {"ffi": "0.1"}, 2)) == 2
    assert differences({"threads": 1}, 1) == [], "a plain server does not say"


def test_other_threads_are_refused(bench: Setup, program: Program, stage: Stage) -> None:
    pool = BoardPool(stage.address, 3, [(str(program.path), program.sizes)])
    with pool, pytest.raises(DeviceError, match="runs 1 thread where 3") as caught:
        list(pool.run([(rpc.time_kernels, ([], [], 1.0))]))
    assert "--threads 3" in caught.value.hint


def test_code_for_another_machine_is_nobodys_slow_kernel(
    bench: Setup, program: Program, stage: Stage, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.so"
    data = bytearray(program.path.read_bytes())
    data[18:20] = b"\xb7\x00"  # ELF's e_machine: aarch64
    foreign.write_bytes(data)
    with device(bench, stage) as boards:
        boards.boards.calibration = [(str(foreign), program.sizes)]
        with pytest.raises(DeviceError, match="calibration kernels") as caught:
            boards.measure([program], VISIT, seed=0)
    assert "\n" not in caught.value.message


def test_a_key_that_no_board_has_names_those_there_are(bench: Setup, stage: Stage) -> None:
    boards = device(bench, stage)
    boards.boards.address = rpc.RpcAddress("127.0.0.1", stage.port, "pi4")
    with pytest.raises(DeviceError, match=f"no board of the key pi4; it knows {KEY}"), boards:
        pass


def test_no_tracker_is_a_device_error_at_once(bench: Setup, program: Program, stage: Stage) -> None:
    boards = device(bench, stage)
    boards.boards.address = rpc.RpcAddress("127.0.0.1", free_port(), "pi4")
    with pytest.raises(DeviceError, match="connection refused"):
        boards.measure([program], VISIT, seed=0)


def test_the_boards_file_runs_by_itself() -> None:
    """It must not need anything of ofatvm: boards get this one file."""
    import ast

    from ofatvm.device import rpc_board

    tree = ast.parse(Path(rpc_board.__file__).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            top = name.partition(".")[0]
            assert top in {"tvm", "tvm_ffi", "numpy"} or top in sys.stdlib_module_names, name

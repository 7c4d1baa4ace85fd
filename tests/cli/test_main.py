"""The command line turns every failure into one line and the right exit code."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from ofatvm import __version__, errors
from ofatvm.cli import main as main_module
from ofatvm.cli.main import Run
from ofatvm.cli.render import Result
from ofatvm.events import StageStarted

Ofatvm = Callable[..., Any]


def raising(error: BaseException) -> Callable[..., Result]:
    def function(run: Run, **options: Any) -> Result:
        raise error

    return function


def no_space() -> OSError:
    return OSError(28, "No space left on device", "/x/file")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.OfatvmError("it broke", hint="mend it"), 1, "error: it broke (mend it)"),
        (errors.TargetError("what?"), 2, "error: what?"),
        (errors.InfeasibleBudgetError("no way", best={"latency_ms": 3.0}), 3, "error: no way"),
        (errors.DeviceError("gone"), 4, "error: gone"),
        (errors.MissingInputError("no file"), 5, "error: no file"),
        (errors.OfatvmError("two\nlines\x1b[31m"), 1, "error: two lines [31m"),
        (click.UsageError("odd option."), 2, "error: odd option (see ofatvm try --help)"),
        (KeyboardInterrupt(), 130, "error: interrupted (the same command continues)"),
        (
            PermissionError(13, "Permission denied", "/x"),
            2,
            "error: cannot use /x: Permission denied (give another path, or mend that one)",
        ),
        (
            OSError(30, "Read-only file system", "/x"),
            2,
            "error: cannot use /x: Read-only file system (give another path, or mend that one)",
        ),
        (no_space(), 1, "error: no space left on the disk for /x/file (free some)"),
        (
            FileNotFoundError(2, "No such file", "/x"),
            5,
            "error: there is no /x (give another path, or mend that one)",
        ),
        (MemoryError(), 1, "error: out of memory (close other programs and try again)"),
        (
            ZeroDivisionError("by zero"),
            1,
            "internal error: ZeroDivisionError: by zero (set OFATVM_DEBUG=1 for the traceback)",
        ),
        (
            BrokenPipeError(32, "Broken pipe"),
            1,
            "internal error: BrokenPipeError: [Errno 32] Broken pipe "
            "(set OFATVM_DEBUG=1 for the traceback)",
        ),
    ],
)
def test_a_failure_is_one_line_and_in_json_one_object(
    ofatvm: Ofatvm, body: Any, monkeypatch: Any, error: BaseException, code: int, line: str
) -> None:
    monkeypatch.setattr(main_module, "stdout_closed", lambda: False)
    body(raising(error))
    plain = ofatvm("try")
    assert (plain.code, plain.out, plain.err) == (code, "", line + "\n")
    answer = ofatvm("try", "--json")
    assert (answer.code, answer.err) == (code, "")
    assert answer.json["ok"] is False
    assert answer.json["schema"] == 1
    assert answer.json["error"]["exit_code"] == code
    assert answer.json["error"]["message"]


@pytest.mark.parametrize(("ended", "said"), [(True, ""), (False, "error: it broke\n")])
def test_of_several_processes_the_first_speaks(
    ofatvm: Ofatvm, body: Any, monkeypatch: Any, ended: bool, said: str
) -> None:
    def wait(seconds: float) -> None:
        if ended:  # by torchrun, because the first has failed
            raise KeyboardInterrupt

    monkeypatch.setattr(main_module.time, "sleep", wait)
    monkeypatch.setenv("WORLD_SIZE", "2")
    body(raising(errors.OfatvmError("it broke")))
    monkeypatch.setenv("RANK", "0")
    assert ofatvm("try").err == "error: it broke\n"
    monkeypatch.setenv("RANK", "1")
    assert ofatvm("try").err == said
    body(raising(KeyboardInterrupt()))
    answer = ofatvm("try")
    assert (answer.code, answer.err) == (130, "")


def test_sqlite_errors_are_store_errors(ofatvm: Ofatvm, body: Any) -> None:
    body(raising(sqlite3.DatabaseError("database disk image is malformed")))
    answer = ofatvm("try", "--json")
    assert answer.code == 2
    assert answer.json["error"]["kind"] == "StoreError"


def test_the_best_achievable_is_in_the_json(ofatvm: Ofatvm, body: Any) -> None:
    body(raising(errors.InfeasibleBudgetError("no way", best={"latency_ms": 3.5})))
    assert ofatvm("try", "--json").json["error"]["best"] == {"latency_ms": 3.5}


def test_the_traceback_is_there_for_those_who_ask(
    ofatvm: Ofatvm, body: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("OFATVM_DEBUG", "1")
    body(raising(ZeroDivisionError("by zero")))
    assert "Traceback" in ofatvm("try").err


def test_a_result_is_text_or_json(ofatvm: Ofatvm, body: Any, tmp_path: Path) -> None:
    def function(run: Run, **options: Any) -> Result:
        run.on_event(StageStarted("tune", 3))
        data = {"folder": run.workspace, "n": 3}
        return Result(data, lambda width: f"n is {data['n']}")

    body(function)
    plain = ofatvm("try", "--workspace", tmp_path)
    assert (plain.code, plain.out, plain.err) == (0, "n is 3\n", "tune (of 3)\n")
    assert ofatvm("try", "-q").err == ""
    answer = ofatvm("try", "--json", "--workspace", tmp_path)
    assert answer.json == {"schema": 1, "ok": True, "folder": str(tmp_path), "n": 3}


def test_lines_are_json_lines(ofatvm: Ofatvm, body: Any) -> None:
    body(lambda run, **options: Result({}, lambda width: "", lines=[{"a": 1}, {"a": 2}]))
    lines = ofatvm("try", "--json").out.splitlines()
    assert [json.loads(line) for line in lines] == [{"a": 1}, {"a": 2}]


def test_an_answer_may_carry_an_error(ofatvm: Ofatvm, body: Any) -> None:
    wrong = errors.BundleError("digest differs", hint="do not use it")
    body(lambda run, **options: Result({"checked": 3}, lambda width: "3 checked", error=wrong))
    plain = ofatvm("try")
    assert (plain.code, plain.out) == (2, "3 checked\n")
    assert plain.err == "error: digest differs (do not use it)\n"
    answer = ofatvm("try", "--json").json
    assert (answer["ok"], answer["checked"]) == (False, 3)
    assert answer["error"]["kind"] == "BundleError"


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["doctor", "--nonsense"], ["--nonsense"], ["status", "extra"]]
)
def test_wrong_usage_is_exit_2(ofatvm: Ofatvm, arguments: list[str]) -> None:
    plain = ofatvm(*arguments)
    assert (plain.code, plain.out, plain.err.count("\n")) == (2, "", 1)
    assert plain.err.startswith("error: ")
    answer = ofatvm(*arguments, "--json")
    assert answer.json["error"]["exit_code"] == answer.code == 2


def test_help_and_version(ofatvm: Ofatvm) -> None:
    for arguments in ([], ["--help"], ["-h"], ["doctor", "--help"]):
        answer = ofatvm(*arguments)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.startswith("Usage: ofatvm")
    assert ofatvm("--version").out == f"ofatvm, version {__version__}\n"


def test_help_is_quick() -> None:
    command = [sys.executable, "-c", "from ofatvm.cli.main import main; main(['--help'])"]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.3


@pytest.mark.parametrize("arguments", [["--help"], ["doctor"], ["doctor", "--json"]])
def test_a_reader_that_leaves_is_no_error(arguments: list[str]) -> None:
    code = "import sys; from ofatvm.cli.main import main; sys.exit(main(sys.argv[1:]))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1


def in_shell(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, redirected by the shell."""
    code = "import sys; from ofatvm.cli.main import main; sys.exit(main())"
    script = f'exec "$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


BOGUS = ("describe", "bogus", "--target", "x86-64-v2")


@pytest.mark.parametrize(
    ("redirection", "code", "line"),
    [
        (">&-", 2, "error: cannot use stdout: Bad file descriptor"),
        (">&- <&-", 2, "error: cannot use stdout: Bad file descriptor"),
        ("1</dev/null", 2, "error: cannot use stdout: Bad file descriptor"),
        (">/dev/full", 1, "error: no space left on the disk for stdout (free some)"),
        ("> >(exec true)", None, None),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        ("2</dev/null", 0, ""),
        (">&- 2>&-", 2, ""),
        ("<&- >&- 2>&-", 2, ""),
    ],
)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_a_stream_that_takes_nothing_is_no_traceback(
    redirection: str, code: int | None, line: str | None, as_json: bool
) -> None:
    done = in_shell(redirection, "status", *(["--json"] if as_json else []))
    if code is None:  # the reader may be quicker than we are, or not
        assert (done.returncode, done.stderr) in [(0, ""), (1, "")]
        return
    assert (done.returncode, done.stderr) == (code, f"{line}\n" if line else "")


@pytest.mark.parametrize("redirection", [">&-", "1</dev/null", ">/dev/full", ">&- 2>/dev/full"])
def test_an_error_that_stdout_does_not_take_goes_to_stderr(redirection: str) -> None:
    done = in_shell(redirection, *BOGUS, "--json")
    assert done.returncode == 2
    if "2>" in redirection:
        assert done.stderr == ""
        return
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "bogus" in done.stderr


def test_an_error_whose_reader_left_is_one_line() -> None:
    code = "import sys; from ofatvm.cli.main import main; sys.exit(main())"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code, *BOGUS, "--json"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("arguments", [("targets",), ("targets", "--json"), ("--help",), ("what",)])
@pytest.mark.parametrize("make", [lambda: None, closed, io.StringIO], ids=["none", "closed", "ok"])
def test_streams_of_any_kind_do(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any], arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "stdout", make())
    monkeypatch.setattr(sys, "stderr", make())
    code = main_module.main(arguments)
    if isinstance(sys.stdout, io.StringIO) and not sys.stdout.closed:
        assert code == (2 if arguments == ("what",) else 0)
    else:
        assert code in (0, 1, 2)


def test_a_current_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; from ofatvm.cli.main import main; os.rmdir(os.getcwd()); "
    code += "sys.exit(main(['status']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=gone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: the current folder is not there any more (cd into one that is)\n"


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("workspace", "said"),
    [
        ("", "--workspace is empty"),
        ("  ", "--workspace is empty"),
        ("file", "file is not a folder"),
        ("file/below/it", "file is not a folder"),
        ("dangling", "dangling is not a folder"),
    ],
)
@pytest.mark.parametrize("command", ["status", "doctor", "targets"])
def test_a_workspace_that_cannot_be_is_exit_2(
    ofatvm: Ofatvm,
    tmp_path: Path,
    monkeypatch: Any,
    command: str,
    workspace: str,
    said: str,
    as_json: bool,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    answer = ofatvm(command, "--workspace", workspace, *(["--json"] if as_json else []))
    assert answer.code == 2
    if as_json:
        assert said in answer.json["error"]["message"]
        assert answer.err == ""
    else:
        assert (answer.out, answer.err.count("\n")) == ("", 1)
        assert said in answer.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_exit_130(number: signal.Signals) -> None:
    code = """
import signal, sys, time, types, click
from ofatvm.cli import main as m
# A test runner in the background may hand down an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
def body(run):
    print("ready", file=sys.stderr, flush=True)
    time.sleep(60)
command = click.command("wait")(m.common_options(body))
sys.modules["waiting"] = types.SimpleNamespace(command=command)
m.LAZY["wait"] = ("waiting:command", "Wait.")
sys.exit(m.main(["wait"]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(number)
    assert process.stderr.read() == "error: interrupted (the same command continues)\n"
    assert process.wait() == 130
    process.stderr.close()

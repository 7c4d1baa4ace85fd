"""Run a compiled network from its .so in a child process, with the TVM runtime only.

A network that crashes, hangs or answers nonsense is one MeasurementError. The child has the rights
of this process: only run what you would run anyway.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ofatvm.errors import MeasurementError, MissingInputError
from ofatvm.files import scratch
from ofatvm.measurement import check_finite
from ofatvm.paths import PACKAGE
from ofatvm.road import Ir
from ofatvm.signals import ending_with_parent

CALLS = 50
WARM_UP_CALLS = 3
MAX_FILE_BYTES = 1 << 26
NO_RUNTIME = 5
EVERY_IMAGE = "every image"
CPU = 1  # kDLCPU
POOLED_ALLOCATOR = 2
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class BundleRun:
    """What the network gave for the input, and the time of each call."""

    output: np.ndarray
    samples_ms: tuple[float, ...]


def run_bundle(
    model: Path,
    sample: np.ndarray,
    *,
    threads: int,
    timeout_s: float,
    calls: int = CALLS,
    built_with: str = "",
    ir: Ir = "relax",
) -> BundleRun:
    """Load `model`, call it with `sample`, time `calls` more calls (fewer when they are slow).

    `built_with` is the TVM version that compiled it, for the message when it does not run; what
    came from Relay (`ir`) is run in the environment of TVM 0.19.
    """
    with _finished_child(model, sample, threads, timeout_s, str(calls), built_with, ir) as folder:
        return BundleRun(_output(folder), _samples(folder))


def run_images(
    model: Path,
    images: np.ndarray,
    *,
    threads: int,
    timeout_s: float,
    built_with: str = "",
    ir: Ir = "relax",
) -> np.ndarray:
    """Load `model` once and call it for one image after another; the outputs (n, ...).

    `images` is (n, height, width, channels) float32; each call gets (1, height, width, channels).
    No more threads are used than there are cores: they wait for each other spinning.
    """
    threads = min(threads, len(os.sched_getaffinity(0)))
    with _finished_child(model, images, threads, timeout_s, EVERY_IMAGE, built_with, ir) as folder:
        output = _output(folder)
    if len(output) != len(images):
        raise MeasurementError(f"model.so gave {len(output)} outputs for {len(images)} images")
    return output


@contextlib.contextmanager
def _finished_child(
    model: Path,
    given: np.ndarray,
    threads: int,
    timeout_s: float,
    task: str,
    built_with: str,
    ir: Ir,
) -> Iterator[Path]:
    """The folder in which a child left its results; MeasurementError if it did not get there."""
    with scratch("run") as folder:
        np.save(folder / "input.npy", given)
        code = _child(model.absolute(), folder, threads, timeout_s, task, ir)
        text = tail(folder / "messages")
        if code == NO_RUNTIME:
            raise MissingInputError(f"no TVM runtime: {last_line(text)}", hint="ofatvm doctor")
        if code != 0:
            raise MeasurementError(
                f"model.so {how_it_ended(code)}: {last_line(text)}", hint=_versions_hint(built_with)
            )
        yield folder


def _child(model: Path, folder: Path, threads: int, timeout_s: float, task: str, ir: Ir) -> int:
    """Run the child to its end in `folder`; its exit code, negative for a signal."""
    words = [str(model), task, str(timeout_s)]
    if ir == "relay":
        from ofatvm.compiler.relay_env import relay_variables, relay_words

        words = relay_words("ofatvm.relay.run", *words)
        environment = relay_variables(threads)
    else:
        words = [sys.executable, "-P", "-m", __name__, *words]
        paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "TVM_NUM_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
        }
    environment["TMPDIR"] = str(folder)
    with (folder / "messages").open("wb") as messages:
        return run_to_end(words, folder, environment, timeout_s, stdout=messages, stderr=messages)


def run_to_end(
    words: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    *,
    stdout: BinaryIO,
    stderr: BinaryIO,
) -> int:
    """Run a network in a process group of its own; its exit code, negative for a signal.

    Whatever the group still does at the end, or at the time-out, a MeasurementError, is stopped.
    Should this process be killed, so is the network.
    """
    process = subprocess.Popen(
        ending_with_parent(words),
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise MeasurementError(
            f"model.so took longer than {timeout_s:g} s and was stopped",
            hint="on a busy machine, do it again later; verify takes a longer --timeout",
        ) from None
    finally:
        # The whole group, whatever became of the child: it may have started others.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _output(folder: Path) -> np.ndarray:
    output = _result(folder / "output.npy")
    if output.dtype != np.float32 or output.ndim < 1:
        raise MeasurementError(f"model.so gave nonsense: {output.dtype} of shape {output.shape}")
    check_finite(output, "model.so")
    return output


def _samples(folder: Path) -> tuple[float, ...]:
    times = tuple(float(sample) for sample in _result(folder / "samples.npy").ravel())
    if not times or not all(0 < t < 1e9 for t in times):
        raise MeasurementError(f"model.so gave nonsense: times {times[:3]}")
    return times


def _result(path: Path) -> np.ndarray:
    try:
        result: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MeasurementError(f"model.so left no result: {error}") from None
    return result


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return "failed"
    try:
        return f"crashed ({signal.Signals(-code).name})"
    except ValueError:
        return f"crashed (signal {-code})"


def tail(path: Path, length: int = 4096) -> str:
    """The end of a file of messages."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - length))
        return file.read(length).decode("utf-8", "replace")


def last_line(text: str) -> str:
    """The last line that says something, cut to what a message holds."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it left no message"


def _versions_hint(built_with: str) -> str:
    try:
        here = metadata.version("apache-tvm")
    except metadata.PackageNotFoundError:
        return "ofatvm doctor"
    if built_with and built_with != here:
        return f"it was compiled by TVM {built_with}, this machine has {here}"
    return ""


def run_task(
    words: Sequence[str],
    load_runtime: Callable[[], None],
    load_network: Callable[[str], Callable[[Any], Any]],
    network_input: Callable[[np.ndarray], Any],
) -> None:
    """The child: run a network as the words say (file, task, time-out in seconds).

    Leaves the results in the current folder. `load_network` gives what calls the network with a
    tensor that `network_input` made of an array.
    """
    model, task, timeout_s = words[0], words[1], float(words[2])
    # Should the parent die, this process still ends.
    signal.alarm(math.ceil(timeout_s) + 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: int(os.environ["TVM_NUM_THREADS"])])
    # tvm_ffi loads torch wherever it is installed; a bundle must do without.
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        load_runtime()
    except (ImportError, OSError, RuntimeError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(NO_RUNTIME)
    main = load_network(model)
    if task == EVERY_IMAGE:
        images = np.load("input.npy", mmap_mode="r")
        outputs = [np.array(np.from_dlpack(main(network_input(each[None])))) for each in images]
        np.save("output.npy", np.concatenate(outputs))
    else:
        _run_and_time(main, network_input(np.load("input.npy")), int(task), timeout_s)


def _run_and_time(main: Callable[[Any], Any], given: Any, calls: int, timeout_s: float) -> None:
    np.save("output.npy", np.from_dlpack(main(given)))
    for _ in range(WARM_UP_CALLS):
        main(given)
    samples: list[float] = []
    end = time.perf_counter() + timeout_s / 4
    while not samples or (len(samples) < calls and time.perf_counter() < end):
        start = time.perf_counter()
        main(given)
        samples.append((time.perf_counter() - start) * 1e3)
    np.save("samples.npy", np.array(samples))


def load_runtime() -> None:
    """Load TVM's runtime library alone: importing tvm takes four times as long, and memory.

    Raises ImportError, OSError or RuntimeError if there is none.
    """
    from tvm_ffi import libinfo

    found = importlib.util.find_spec("tvm")
    if found is None:
        raise ImportError("No module named 'tvm'")
    folders = [Path(folder) / "lib" for folder in found.submodule_search_locations or ()]
    libinfo.load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", folders)


def load_network(model: str) -> Callable[[Any], Any]:
    """`main` of a model.so, tensor to tensor; `load_runtime` comes first."""
    import tvm_ffi

    machine = tvm_ffi.load_module(model)["vm_load_executable"]()
    machine["vm_initialization"](CPU, 0, POOLED_ALLOCATOR)
    main: Callable[[Any], Any] = machine["main"]
    return main


def network_input(values: np.ndarray) -> Any:
    """A tensor that starts where TVM's own tensors may: at a multiple of 64 bytes."""
    import tvm_ffi

    room = np.empty(values.nbytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return tvm_ffi.from_dlpack(copy)


if __name__ == "__main__":
    run_task(sys.argv[1:], load_runtime, load_network, network_input)

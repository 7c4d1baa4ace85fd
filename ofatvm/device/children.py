"""Child processes for what may crash or hang: how they start, and what became of their jobs."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ofatvm.errors import CompileError, DeviceError, OfatvmError

if TYPE_CHECKING:
    from tvm.support.popen_pool import PopenPoolExecutor

DIED = "the worker process died"
KILLED = "took too long and was killed"
HINT = "is memory short? The same command continues"
LOST = (ChildProcessError, EOFError, struct.error, pickle.UnpicklingError)
"""What a pool raises when its child is gone, be it in the middle of an answer."""


class KilledError(ChildProcessError):
    """A child was killed by SIGKILL, as the kernel does where memory is short."""


def child_pool(
    initialise: Callable[[int], None],
    threads: int,
    *,
    timeout_s: float,
    children: int = 1,
    most_jobs: int | None = None,
) -> PopenPoolExecutor:
    """Processes that each call `initialise(threads)` first; the first job starts them.

    One that dies or takes longer than `timeout_s` is started again, as is one after `most_jobs`.
    The job of such a one is done once more: it may have been killed from outside, or stopped until
    its time was over, as by Ctrl-Z. Not so if it provably hung, see `ofatvm.hang`.
    `shutdown` ends them, whatever they are doing; so does the end of this process.
    """
    from ofatvm.device.child_pool import ChildPool

    return ChildPool(
        children,
        timeout=timeout_s,
        initializer=initialise,
        initargs=(threads,),
        maximum_process_uses=most_jobs,
        # What a candidate, TVM or an interrupt makes a child print belongs on nobody's screen.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def set_threads(threads: int) -> None:
    """Fix the thread count before TVM starts its thread pool."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)


def outcome(job: Any, what: str, *, apart: bool = False) -> tuple[Any, str]:
    """A candidate's result and "", or None and one line of what went wrong in `what`.

    Raises what is not the candidate's fault: so is a process that was killed twice, and any that
    died where the candidate runs `apart`, in another one.
    """
    try:
        return job.result(), ""
    except TimeoutError:
        return None, f"{what}: {KILLED}"
    except KilledError:
        raise DeviceError(f"{what}: the worker was killed, twice", hint=HINT) from None
    except LOST:
        if apart:
            raise DeviceError(f"{what}: the worker died, twice", hint=HINT) from None
        return None, f"{what}: {DIED}"
    except OfatvmError:
        # No linker: not the candidate's fault, and true of all others.
        raise
    except OSError as error:
        raise CompileError(f"{what}: {last_line(error)}", hint="is the disk full?") from None
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
        return None, f"{what}: {last_line(error)}"


def last_line(error: Exception) -> str:
    """What an error says: children hand it back with the text of the whole trace."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:160] if lines else type(error).__name__

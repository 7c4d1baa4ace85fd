"""Linking compiled objects into shared libraries."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from ofatvm.errors import CompileError, MissingInputError


def link_host(output: str, objects: Sequence[str], options: Any = None, **_: Any) -> None:
    """Link TVM's objects into a shared library for this machine.

    TVM's modules need nothing but libc and the already loaded runtime, so the bare linker does; it
    takes a tenth of the time of a compiler driver.
    """
    linker = shutil.which("ld")
    if linker is None:
        raise MissingInputError("no linker found (ld)", hint="apt-get install binutils")
    done = subprocess.run(
        [linker, "-shared", "-z", "noexecstack", "-o", output, *objects],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CompileError(f"linking {output} failed: {done.stderr.strip()[-300:]}")

"""Linking compiled objects into shared libraries."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from ofatvm.errors import CompileError, MissingInputError


def link_host(
    output: str,
    objects: Sequence[str],
    options: Any = None,
    extra: Sequence[str] = (),
    **_: Any,
) -> None:
    """Link objects into a shared library for this machine; TVM's export_library calls it, too.

    Programs need nothing but libc and the already loaded runtime, so the bare linker does; it takes
    a tenth of the time of a compiler driver.
    """
    # A module without machine code of its own comes as a C file, which needs a compiler first.
    needs_compiler = any(name.endswith(".c") for name in objects)
    tool, package = ("cc", "gcc") if needs_compiler else ("ld", "binutils")
    path = shutil.which(tool)
    if path is None:
        raise MissingInputError(f"no {tool} found", hint=f"apt-get install {package}")
    flags = (
        ["-shared", "-fPIC", "-Wl,-Bsymbolic,-z,noexecstack"]
        if needs_compiler
        else ["-shared", "-Bsymbolic", "-z", "noexecstack"]
    )
    done = subprocess.run(
        [path, *flags, "-o", output, *objects, *extra],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CompileError(f"linking {output} failed: {done.stderr.strip()[-300:]}")

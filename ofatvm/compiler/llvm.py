"""LLVM IR written by us, compiled by TVM's LLVM."""

from __future__ import annotations

import json
import re
import tempfile
from functools import cache
from pathlib import Path

from ofatvm.errors import CompileError
from ofatvm.target import Target

# What a thread says that waits in a loop, by the first word of the triple.
_PAUSE = {"x86_64": "pause", "i686": "pause", "aarch64": "yield", "arm64": "yield", "arm": "yield"}


def compile_ir(text: str, target: Target, path: Path) -> None:
    """Write the object file of a module in LLVM IR, for the target's CPU."""
    import tvm

    words = json.dumps(target.to_dict()).replace('"', "\\22")
    flags = f'!llvm.module.flags = !{{!0}}\n!0 = !{{i32 4, !"tvm_target", !"{words}"}}\n'
    with tempfile.NamedTemporaryFile("w", suffix=".ll", encoding="utf-8") as file:
        layout = data_layout(json.dumps(target.to_dict()))
        head = f'target datalayout = "{layout}"\ntarget triple = "{triple(target)}"\n'
        file.write(f"{head}{text}\n{flags}")
        file.flush()
        try:
            module = tvm.runtime.load_module(file.name)
            module.write_to_file(str(path), "o")
        except (RuntimeError, ValueError, TypeError) as error:
            lines = str(error).strip().splitlines()
            raise CompileError(
                f"LLVM refuses the program: {lines[-1][:200] if lines else ''}"
            ) from None


@cache
def data_layout(options: str) -> str:
    """LLVM's data layout for a target dict in JSON: without it, pointers count as 64 bits wide."""
    import tvm
    from tvm import tirx

    target = tvm.target.Target(json.loads(options))
    function = tirx.PrimFunc([], tirx.Evaluate(tirx.const(0, "int32")))
    function = function.with_attr("global_symbol", "empty").with_attr("target", target)
    module = tvm.IRModule({"empty": function})
    text = tvm.get_global_func("target.build.llvm")(module, target).inspect_source("ll")
    found = re.search(r'^target datalayout = "([^"\\]*)"$', text, re.M)
    if found is None:
        raise CompileError("LLVM names no data layout for the target")
    return found.group(1)


def triple(target: Target) -> str:
    """The target's triple, or this machine's."""
    from tvm.target import codegen

    return target.mtriple or str(codegen.llvm_get_system_triple())


def pause(target: Target) -> str:
    """The instruction that tells a CPU that a thread only waits; nothing where there is none."""
    word = triple(target).split("-")[0]
    return _PAUSE.get(word, "yield" if word.startswith("armv") else "")

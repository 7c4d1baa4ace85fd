"""Machine code in place of CUDA source in what TVM packs into a shared library.

TVM without a CUDA runtime keeps kernels as source, which whoever loads the library would have to
compile. Its library holds a tree of modules, `<bytes: u64> <child counts: u64 list> <children: u64
list>` and for each module its kind and, unless that is `_lib`, its bytes. Those of a cuda module
are its format, a table of its kernels and its code; strings follow their length as u64.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from ofatvm.compiler.gpu_nvcc import MachineCode
from ofatvm.compiler.llvm import compile_ir
from ofatvm.errors import CompileError
from ofatvm.target import Target

if TYPE_CHECKING:
    import tvm

LIBRARY_BINARY = "__tvm_ffi__library_bin"
_LIBRARY = b"_lib"
_CUDA = b"cuda"


def write_imports(
    module: tvm.runtime.Module, code: MachineCode | None, host: Target, path: Path
) -> None:
    """Write the object file of all that a module imports, with `code` in place of CUDA source."""
    import tvm

    packed = tvm.get_global_func("runtime.ModulePackImportsToTensor")(module)
    binary = packed.numpy().tobytes()
    if code is not None:
        binary = with_machine_code(binary, code)
    content = path.with_suffix(".bin")
    content.write_bytes(binary)
    # The assembler's escapes inside LLVM's: what it cannot read ends the process.
    name = str(content).replace("\\", "\\5C\\5C").replace('"', "\\5C\\22")
    lines = [
        ".section .rodata.imports,\\22a\\22",
        f".globl {LIBRARY_BINARY}",
        ".balign 64",
        f"{LIBRARY_BINARY}:",
        f".incbin \\22{name}\\22",
        ".text",
    ]
    compile_ir("\n".join(f'module asm "{line}"' for line in lines), host, path)


def with_machine_code(binary: bytes, code: MachineCode) -> bytes:
    """The binary with the format and the code of its cuda module replaced."""
    parts: list[bytes] = []
    at = 8
    for _ in range(2):  # the import tree
        (count,) = struct.unpack_from("<Q", binary, at)
        parts.append(binary[at : at + 8 + 8 * count])
        at += 8 + 8 * count
    replaced = 0
    while at < len(binary):
        kind, at = _string(binary, at)
        parts.append(_packed(kind))
        if kind == _LIBRARY:
            continue
        content, at = _string(binary, at)
        if kind == _CUDA:
            content = _with_code(content, code)
            replaced += 1
        parts.append(_packed(content))
    if replaced != 1:
        raise CompileError(f"the compiled network has {replaced} modules of kernels, not one")
    return _packed(b"".join(parts))


def embedded_format(library: bytes) -> str:
    """What a library's kernels are, as TVM's runtime will read it: cubin, ptx or cuda (source)."""
    names = (_packed(name) for name in (b"cubin", b"ptx", b"cuda"))
    # The kind, the size of the module, and its format.
    place = re.search(
        re.escape(_packed(_CUDA)) + rb".{8}(" + b"|".join(names) + b")", library, re.S
    )
    return place[1][8:].decode() if place else ""


def _with_code(content: bytes, code: MachineCode) -> bytes:
    """[format][table of kernels][code], with another format and code."""
    _, at = _string(content, 0)
    start = _code_start(content, at)
    name = {"source": "cuda"}.get(code.format, code.format)
    # The driver reads PTX up to a zero byte.
    text = code.code + b"\0" if code.format == "ptx" else code.code
    return _packed(name.encode()) + content[at:start] + _packed(text)


def _code_start(content: bytes, at: int) -> int:
    """Where the code's length stands: the code is the last string, and ends with the content."""
    for start in range(at, len(content) - 7):
        (size,) = struct.unpack_from("<Q", content, start)
        if size and start + 8 + size == len(content):
            return start
    raise CompileError("the compiled network's kernels are packed in an unknown way")


def _string(binary: bytes, at: int) -> tuple[bytes, int]:
    (size,) = struct.unpack_from("<Q", binary, at)
    end = at + 8 + size
    if end > len(binary):
        raise CompileError("the compiled network is packed in an unknown way")
    return binary[at + 8 : end], end


def _packed(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text

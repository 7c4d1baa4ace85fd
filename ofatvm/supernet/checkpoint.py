"""Weight files: published OFA checkpoints and our own safetensors, read as untrusted input.

A file is read once, judged by its content and never unpickled freely: a pickle may name nothing
but tensors, and torch reads it with `weights_only=True`. Accepted spellings of a key are the
published ones, old (`mobile_inverted_conv`) and new, of supernets and of static subnets
(`conv.conv` written `conv`), with or without a `module.` prefix.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as dump_safetensors
from torch import Tensor

from ofatvm.arch import ArchSpace
from ofatvm.errors import CheckpointError, MissingInputError
from ofatvm.files import replace_file
from ofatvm.supernet.net import Supernet

NAMES_SHOWN = 20
MAX_HEADER_BYTES = 4 << 20
MAX_PICKLE_STEPS = 500_000
# A training checkpoint holds a few copies of the weights; more than this is something else.
MAX_COPIES = 8
MIN_LIMIT_BYTES = 64 << 20

# What hostile bytes make the readers raise. Anything outside is a bug of ours.
_UNREADABLE = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    EOFError,
    MemoryError,
    OSError,
    struct.error,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
)
_PICKLE_MAY_NAME = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(parameter|tensor_v2)|torch Size"
    r"|torch (BFloat16|Bool|Byte|Char|Double|Float|Half|Int|Long|Short)Storage"
)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def load_weights(path: str | Path, space: ArchSpace) -> Supernet:
    """A supernet of `space` with the weights in `path`, in evaluation mode.

    Raises MissingInputError when there is no such file, and CheckpointError when it is damaged,
    unsafe, or does not fit: then every missing, unexpected and misshapen key is named.
    """
    path = Path(path)
    supernet = Supernet(space)
    expected = supernet.state_dict()
    own_bytes = sum(tensor.nbytes for tensor in expected.values())
    data = _read(path, limit=max(MIN_LIMIT_BYTES, MAX_COPIES * own_bytes))
    found, metadata = _parse(path, data)
    state = _match(path, found, expected, space)
    if metadata.get("space", space.name) != space.name:
        raise CheckpointError(
            f"{path.name} holds weights of {_printable(metadata['space'])}, not of {space.name}"
        )
    supernet.load_state_dict(state)
    supernet.origin = f"{path.name} (sha256 {hashlib.sha256(data).hexdigest()})"
    # Untrained weights stay untrained when they were saved in between.
    untrained = re.match(r"untrained \(seed \d{1,19}\)", metadata.get("origin", ""))
    if untrained:
        supernet.origin = f"{untrained[0]}, {supernet.origin}"
    return supernet.eval()


def save_weights(path: str | Path, supernet: Supernet) -> None:
    """Write safetensors with official key names; the file appears whole or not at all.

    The same weights give the same bytes.
    """
    path = Path(path)
    metadata = {"schema": "1", "space": supernet.space.name, "origin": supernet.origin}
    tensors = {name: tensor.contiguous() for name, tensor in supernet.state_dict().items()}
    replace_file(path, _in_order(dump_safetensors(tensors, metadata)))


def _in_order(data: bytes) -> bytes:
    """The same safetensors file with a sorted header.

    safetensors writes its metadata in random order; the same weights must give the same digest.
    """
    (length,) = struct.unpack("<Q", data[:8])
    text = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":"))
    header = text.encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def _read(path: Path, *, limit: int) -> bytes:
    try:
        if not path.exists():
            raise MissingInputError(
                f"there is no weight file {str(path)!r}",
                hint="give a .pth, .pt or .safetensors file",
            )
        if not path.is_file():
            raise CheckpointError(f"{str(path)!r} is not a regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise CheckpointError(
                    f"{path.name} has {size:,} bytes, more than any checkpoint of this space "
                    f"({limit:,})"
                )
            start = file.read(16)
            if _kind(path, start) == "safetensors":
                _check_header_length(path, start, size)
            return start + file.read(limit)
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror}") from None


def _kind(path: Path, start: bytes) -> str:
    if not start:
        raise CheckpointError(f"{path.name} is empty")
    if start[8:9] == b"{":
        return "safetensors"
    if path.suffix != ".safetensors":
        if start[:4] == b"PK\x03\x04":
            return "zip"
        if start[:1] == b"\x80":
            return "pickle"
    raise CheckpointError(
        f"{path.name} is not a weight file: its content is neither a PyTorch checkpoint nor "
        "safetensors",
        hint="was it downloaded completely, and with its own file name?",
    )


def _check_header_length(path: Path, start: bytes, size: int) -> None:
    (length,) = struct.unpack("<Q", start[:8])
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise CheckpointError(
            f"{path.name} is truncated or damaged: its header claims {length:,} bytes of {size:,}"
        )


def _parse(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """Key -> whatever the file holds under it, and the metadata of a safetensors file."""
    kind = _kind(path, data[:16])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what odd bytes make the readers remark on
            return _parse_as(kind, path, data)
    except _UNREADABLE as error:
        reason = str(error).strip().split("\n", 1)[0][:120] or type(error).__name__
        raise CheckpointError(
            f"{path.name} is truncated or damaged: {_printable(reason)}"
        ) from None


def _parse_as(kind: str, path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    if kind == "safetensors":
        (length,) = struct.unpack("<Q", data[:8])
        tensors = load_safetensors(data)
        return tensors, json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    for stream in _zipped_pickles(path, data) if kind == "zip" else _legacy_pickles(data):
        _check_pickle(path, stream)
    value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return _state_dict(path, value), {}


def _zipped_pickles(path: Path, data: bytes) -> list[io.BytesIO]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        # torch writes entries uncompressed; so what is stored cannot be more than the file.
        total = sum(entry.file_size for entry in entries)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or total > len(data):
            raise CheckpointError(
                f"{path.name} is not a PyTorch checkpoint: its entries are compressed or overlap "
                f"({total:,} bytes out of {len(data):,})"
            )
        pickles = [entry for entry in entries if entry.filename.lower().endswith("data.pkl")]
        if not pickles:
            raise CheckpointError(f"{path.name} is a zip file but not a PyTorch checkpoint")
        return [io.BytesIO(archive.read(entry)) for entry in pickles]


def _legacy_pickles(data: bytes) -> Iterable[io.BytesIO]:
    """The five pickles that torch wrote one behind the other before it used zip files."""
    stream = io.BytesIO(data)
    for _ in range(5):
        yield stream


def _check_pickle(path: Path, stream: io.BytesIO) -> None:
    """Refuse a pickle that names anything but parts of tensors, without running it."""
    strings: deque[str] = deque(maxlen=2)
    for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if step > MAX_PICKLE_STEPS:
            raise CheckpointError(f"{path.name} is not a state dict: its pickle is far too long")
        if opcode.name == "STACK_GLOBAL":
            argument = " ".join(strings)
        elif opcode.name not in ("GLOBAL", "INST") and not opcode.name.startswith("EXT"):
            if isinstance(argument, str):
                strings.append(argument)
            continue
        if not _PICKLE_MAY_NAME.fullmatch(str(argument)):
            raise CheckpointError(
                f"{path.name} is refused: its pickle names {_printable(str(argument))!r}, which "
                "weights do not need",
                hint="save a bare state dict, best as .safetensors",
            )


def _state_dict(path: Path, value: object) -> dict[str, Any]:
    if isinstance(value, Mapping) and isinstance(value.get("state_dict"), Mapping):
        value = value["state_dict"]
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path.name} holds a {type(value).__name__} instead of a state dict")
    return {str(key): item for key, item in value.items()}


def _canonical(key: str) -> str:
    """The spelling that all accepted ones have in common: no segment twice in a row."""
    segments = [name for name, _ in groupby(key.removeprefix("module.").split("."))]
    return ".".join("conv" if name == "mobile_inverted_conv" else name for name in segments)


def _match(
    path: Path, found: Mapping[str, Any], expected: Mapping[str, Tensor], space: ArchSpace
) -> dict[str, Tensor]:
    """The found tensors as float32 under official names, or one error that names all trouble."""
    official = {_canonical(key): key for key in expected}
    spelled: dict[str, str] = {}
    unexpected, misshapen, unsound = [], [], []
    state: dict[str, Tensor] = {}
    for key, value in found.items():
        name = official.get(_canonical(key))
        if name is None or name in spelled:
            unexpected.append(key if name is None else f"{key} (also as {spelled[name]})")
            continue
        spelled[name] = key
        trouble = _misfit(value, expected[name])
        if trouble:
            misshapen.append(f"{key} ({trouble})")
            continue
        state[name] = value.to(expected[name].dtype)
        if not _sound(name, state[name]):
            unsound.append(key)
    missing = [
        name
        for name in expected
        if name not in spelled and not name.endswith("num_batches_tracked")
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    trouble = "; ".join(_listed(kind, keys) for kind, keys in kinds.items() if keys)
    if trouble:
        static = spelled and any(name.endswith("_matrix") for name in missing)
        raise CheckpointError(
            f"{path.name} does not fit the supernet of {space.name}: {trouble}",
            hint="this looks like one static network; the weights of a whole supernet are needed"
            if static
            else "are these weights of another space?",
        )
    if unsound:
        raise CheckpointError(
            f"{path.name} holds NaN, infinite or negative-variance values: "
            f"{_listed('unsound', unsound)}"
        )
    return {name: state.get(name, tensor) for name, tensor in expected.items()}


def _misfit(value: object, expected: Tensor) -> str:
    """Why `value` cannot stand where `expected` does; empty when it can. Reads no elements."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}, not a tensor"
    if value.shape != expected.shape:
        return f"{tuple(value.shape)}, expected {tuple(expected.shape)}"
    allowed = _FLOATS if expected.is_floating_point() else _INTEGERS
    if value.layout != torch.strided or value.dtype not in allowed:
        return f"{value.dtype}, expected numbers like {expected.dtype}"
    return ""


def _sound(name: str, tensor: Tensor) -> bool:
    finite = bool(torch.isfinite(tensor).all())
    return finite and not (name.endswith("running_var") and bool((tensor < 0).any()))


def _listed(kind: str, keys: list[str]) -> str:
    shown = ", ".join(_printable(key) for key in keys[:NAMES_SHOWN])
    more = f" and {len(keys) - NAMES_SHOWN} more" if len(keys) > NAMES_SHOWN else ""
    return f"{len(keys)} {kind}: {shown}{more}"


def _printable(text: str) -> str:
    return text[:160] if text.isprintable() else ascii(text[:160])

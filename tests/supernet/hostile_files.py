"""Bytes that no weight file should have."""

import io
import json
import os
import pickle
import struct
import zipfile

import torch
from safetensors.torch import save_file


class Canary:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Grows:
    def __reduce__(self):
        return bytearray, (1 << 33,)


def torch_zip(state, **changes):
    """The bytes of a checkpoint with some entries replaced, by the end of their names."""
    whole = io.BytesIO()
    torch.save(state, whole)
    result = io.BytesIO()
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(result, "w") as target:
        for entry in source.infolist():
            end = entry.filename.split("/", 1)[1]
            target.writestr(entry, changes.get(end, source.read(entry)))
    return result.getvalue()


def zip_bomb():
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/version", "3\n")
        with archive.open("archive/data/0", "w") as entry:
            for _ in range(64):
                entry.write(bytes(1 << 20))
    return result.getvalue()


def overlapping_zip(state):
    """Two directory entries for the bytes of each one."""
    data = torch_zip(state)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start, count = archive.start_dir, len(archive.infolist())
    end = data.rindex(b"PK\x05\x06")
    directory = data[start:end]
    record = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, 2 * count, 2 * count, 2 * len(directory), start, 0
    )
    return data[:start] + directory * 2 + record


def with_header(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def one_tensor(**changes):
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes
    return with_header({"first_conv.bn.weight": entry}, bytes(16))


def legacy(state):
    stream = io.BytesIO()
    torch.save(state, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def whole_zip(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def whole_safetensors(state, path):
    save_file(state, path)
    return path.read_bytes()


def deep_pickle():
    return b"\x80\x02" + b"(" * 400_000 + b"t" * 400_000 + b"."


def state_pickle(*, numel, size):
    """A pickled state dict of one tensor with any storage and any shape."""

    def number(value):
        return b"\x8a\x08" + struct.pack("<q", value)

    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    storage += b"X\x03\x00\x00\x00cpu" + number(numel) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00"
    tensor += number(size) + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X\x01\x00\x00\x00a" + tensor + b"s."


def hostile(state, canary, scratch):
    command = f"touch {canary}"
    small_state = {"a": torch.zeros(4)}
    good = whole_safetensors(state, scratch)
    zipped, old = whole_zip(state), legacy(state)
    flipped = bytearray(zipped)
    flipped[flipped.index(b"ctorch._utils") + 3] ^= 0x40
    return {
        "empty.pth": b"",
        "one byte.pth": b"\x80",
        "text.pth": b"<!DOCTYPE html><title>404</title>",
        "zeros.safetensors": bytes(1000),
        "zip cut at the end.pth": zipped[:-30],
        "zip cut in the middle.pth": zipped[: len(zipped) // 2],
        "zip with flipped bit.pth": bytes(flipped),
        "plain zip.pth": _plain_zip(),
        "zip bomb.pth": zip_bomb(),
        "overlapping zip.pth": overlapping_zip(state),
        "zip with cut storage.pth": torch_zip(small_state, **{"data/0": b"1234"}),
        "zip with huge storage.pth": torch_zip(
            small_state, **{"data.pkl": state_pickle(numel=1 << 45, size=4)}
        ),
        "zip with negative storage.pth": torch_zip(
            small_state, **{"data.pkl": state_pickle(numel=-4, size=4)}
        ),
        "zip with huge tensor.pth": torch_zip(
            small_state, **{"data.pkl": state_pickle(numel=4, size=1 << 50)}
        ),
        "zip with canary.pth": torch_zip(
            small_state, **{"data.pkl": pickle.dumps(Canary(command), protocol=2)}
        ),
        "zip with nested canary.pth": torch_zip(
            small_state,
            **{"data.pkl": pickle.dumps({"state_dict": {"a": Canary(command)}}, protocol=4)},
        ),
        "zip with bytearray bomb.pth": torch_zip(
            small_state, **{"data.pkl": pickle.dumps(Grows(), protocol=2)}
        ),
        "canary 0.pth": pickle.dumps(Canary(command), protocol=0),
        "canary 2.pth": pickle.dumps(Canary(command), protocol=2),
        "canary 5.pth": pickle.dumps(Canary(command), protocol=5),
        "legacy with canary.pth": _legacy_with(Canary(command)),
        "legacy cut.pth": old[: len(old) // 2],
        "legacy cut in its pickles.pth": old[:700],
        "plain pickle.pth": pickle.dumps({"a": [1.0]}, protocol=2),
        "list.pth": whole_zip([1, 2, 3]),
        "tensor.pth": whole_zip(torch.zeros(3)),
        "wrapped list.pth": whole_zip({"state_dict": [1]}),
        "whole module.pth": whole_zip(torch.nn.Linear(2, 2)),
        "deep pickle.pth": deep_pickle(),
        "zip with deep pickle.pth": torch_zip(small_state, **{"data.pkl": deep_pickle()}),
        "pickle named safetensors.safetensors": zipped,
        "cut.safetensors": good[:-100],
        "cut in its header.safetensors": good[:500],
        "long.safetensors": good + b"more",
        "2^63.safetensors": with_header(b"{}", length=1 << 63),
        "negative.safetensors": b"\xff" * 8 + b"{}",
        "101 MB header.safetensors": with_header(b'{"a":' + b" " * (101 << 20) + b"1}"),
        "no json.safetensors": with_header(b"{this is not json}"),
        "deep json.safetensors": with_header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        "list metadata.safetensors": with_header({"__metadata__": ["a"]}),
        "huge shape.safetensors": one_tensor(shape=[1 << 62, 4]),
        "negative shape.safetensors": one_tensor(shape=[-4]),
        "negative offsets.safetensors": one_tensor(data_offsets=[-16, 0]),
        "offsets past the end.safetensors": one_tensor(data_offsets=[0, 1 << 40]),
        "unknown dtype.safetensors": one_tensor(dtype="PICKLE"),
        "overlapping.safetensors": with_header(
            {k: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for k in "ab"}, bytes(16)
        ),
        "hole.safetensors": with_header(
            {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, bytes(16)
        ),
    }


def _plain_zip():
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return result.getvalue()


def _legacy_with(value):
    stream = io.BytesIO(legacy({}))
    for _ in range(3):
        pickle.load(stream)
    head = stream.getvalue()[: stream.tell()]
    return head + pickle.dumps(value, protocol=2) + pickle.dumps([], protocol=2)

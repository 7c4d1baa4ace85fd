import hashlib
import io
import json
import math
import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ofatvm.errors import CheckpointError, MissingInputError
from ofatvm.spaces import SPACES
from ofatvm.supernet.checkpoint import load_weights, save_weights
from ofatvm.supernet.net import Supernet, extract

OFA = SPACES["ofa_mbv3_d234_e346_k357_w1.0"]


@pytest.fixture(scope="module")
def net(small, randomise_norms) -> Supernet:
    return randomise_norms(Supernet(small, seed=5)).eval()


@pytest.fixture
def state(net) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(supernet, state) -> bool:
    found = supernet.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)


def old_spelling(key):
    return key.replace(".conv.", ".mobile_inverted_conv.", 1) if key.startswith("blocks") else key


def static_spelling(key):
    for name in ("conv", "bn", "linear"):
        key = key.replace(f".{name}.{name}.", f".{name}.")
    return key


SPELLINGS = {
    "official": lambda key: key,
    "old": old_spelling,
    "static": static_spelling,
    "static old": lambda key: static_spelling(old_spelling(key)),
    "data parallel": lambda key: f"module.{key}",
    "doubled linear": lambda key: key.replace("classifier.linear.", "classifier.linear.linear."),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_loads(spelling, state, small, tmp_path):
    path = tmp_path / "net.pth"
    torch.save({SPELLINGS[spelling](key): tensor for key, tensor in state.items()}, path)
    loaded = load_weights(path, small)
    assert same(loaded, state)
    assert not loaded.training


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
@pytest.mark.parametrize("name", ["net.pth", "net.pt", "ofa_mbv3_d234_e346_k357_w1.0"])
def test_every_container_loads(name, zipped, wrapped, state, small, tmp_path):
    value = OrderedDict(state)
    value._metadata = {"": {"version": 1}}
    value = {"state_dict": value, "epoch": 3, "optimizer": {"lr": 0.1}} if wrapped else value
    path = tmp_path / name
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    assert same(load_weights(path, small), state)


def test_published_shapes_load(tmp_path):
    supernet = Supernet(OFA, seed=1)
    path = tmp_path / "ofa_mbv3_d234_e346_k357_w1.0"
    state = {old_spelling(key): tensor for key, tensor in supernet.state_dict().items()}
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
    assert same(load_weights(path, OFA), supernet.state_dict())


def published_layout() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of `ofa_mbv3_d234_e346_k357_w1.0` as published, written out from its spec."""
    layout: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            layout[f"{name}.{part}"] = (channels,)
        layout[f"{name}.num_batches_tracked"] = ()

    layout["first_conv.conv.weight"] = (16, 3, 3, 3)
    norm("first_conv.bn", 16)
    layout["blocks.0.conv.depth_conv.conv.weight"] = (16, 1, 3, 3)
    norm("blocks.0.conv.depth_conv.bn", 16)
    layout["blocks.0.conv.point_linear.conv.weight"] = (16, 16, 1, 1)
    norm("blocks.0.conv.point_linear.bn", 16)
    inputs, number = 16, 1
    for width, excite in ((24, False), (40, True), (80, False), (112, True), (160, True)):
        for _ in range(4):
            mid, name = 6 * inputs, f"blocks.{number}.conv"
            layout[f"{name}.inverted_bottleneck.conv.conv.weight"] = (mid, inputs, 1, 1)
            norm(f"{name}.inverted_bottleneck.bn.bn", mid)
            layout[f"{name}.depth_conv.conv.conv.weight"] = (mid, 1, 7, 7)
            layout[f"{name}.depth_conv.conv.7to5_matrix"] = (25, 25)
            layout[f"{name}.depth_conv.conv.5to3_matrix"] = (9, 9)
            norm(f"{name}.depth_conv.bn.bn", mid)
            if excite:
                squeezed = {96: 24, 144: 40, 240: 64, 480: 120, 672: 168, 960: 240}[mid]
                layout[f"{name}.depth_conv.se.fc.reduce.weight"] = (squeezed, mid, 1, 1)
                layout[f"{name}.depth_conv.se.fc.reduce.bias"] = (squeezed,)
                layout[f"{name}.depth_conv.se.fc.expand.weight"] = (mid, squeezed, 1, 1)
                layout[f"{name}.depth_conv.se.fc.expand.bias"] = (mid,)
            layout[f"{name}.point_linear.conv.conv.weight"] = (width, mid, 1, 1)
            norm(f"{name}.point_linear.bn.bn", width)
            inputs, number = width, number + 1
    layout["final_expand_layer.conv.weight"] = (960, 160, 1, 1)
    norm("final_expand_layer.bn", 960)
    layout["feature_mix_layer.conv.weight"] = (1280, 960, 1, 1)
    layout["classifier.linear.weight"] = (1000, 1280)
    layout["classifier.linear.bias"] = (1000,)
    return layout


@pytest.mark.parametrize("spelling", ["official", "old"])
def test_a_checkpoint_of_the_published_keys_and_shapes_loads(spelling, tmp_path):
    layout = published_layout()
    buffers = [key for key in layout if key.endswith(("running_mean", "running_var", "tracked"))]
    assert len(layout) - len(buffers) == 283
    generator = torch.Generator().manual_seed(4)
    state = {}
    for key, shape in layout.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif key.endswith("running_var") or ("bn" in key and key.endswith("weight")):
            state[key] = torch.rand(shape, generator=generator) + 0.5
        else:
            fan_in = max(1, math.prod(shape[1:]))
            state[key] = torch.randn(shape, generator=generator) / math.sqrt(fan_in)
    path = tmp_path / "ofa_mbv3_d234_e346_k357_w1.0"
    rename = SPELLINGS[spelling]
    torch.save({"state_dict": {rename(key): tensor for key, tensor in state.items()}}, path)
    supernet = load_weights(path, OFA)
    assert same(supernet, state)
    x = torch.randn(1, 3, 64, 64, generator=generator)
    for arch in (OFA.smallest(128), OFA.largest(128), OFA.sample(np.random.default_rng(1))):
        with torch.no_grad():
            wanted = supernet(x, arch)
            torch.testing.assert_close(
                extract(supernet, arch)(x) / wanted.abs().max(),
                wanted / wanted.abs().max(),
                rtol=0,
                atol=1e-5,
            )


def test_half_precision_and_missing_batch_counters_load(state, small, tmp_path):
    path = tmp_path / "net.safetensors"
    kept = {k: v.half() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_file(kept, path)
    loaded = load_weights(path, small).state_dict()
    assert all(torch.equal(loaded[k], v.float()) for k, v in kept.items())
    assert loaded["first_conv.conv.weight"].dtype == torch.float32


def test_what_was_saved_loads_and_says_where_it_is_from(net, small, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"old")
    save_weights(path, net)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.safetensors"]
    assert load_file(path).keys() == net.state_dict().keys()
    loaded = load_weights(path, small)
    assert same(loaded, net.state_dict())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.origin == f"untrained (seed 5), net.safetensors (sha256 {digest})"
    loaded.origin = "trained on something"
    save_weights(path, loaded)
    again = load_weights(path, small)
    assert again.origin.startswith("net.safetensors (sha256 ")
    assert extract(again, small.largest()).origin == again.origin


def test_the_same_weights_give_the_same_bytes(net, tmp_path):
    written = set()
    for place in range(8):
        save_weights(tmp_path / f"{place}.safetensors", net)
        written.add((tmp_path / f"{place}.safetensors").read_bytes())
    assert len(written) == 1


def test_failed_save_leaves_the_old_file_and_no_other(net, tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_weights(path, net)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_all_trouble_is_named_at_once(state, small, tmp_path):
    gone = ["first_conv.bn.weight", "blocks.1.conv.depth_conv.conv.5to3_matrix"]
    for key in gone:
        del state[key]
    state["extra.weight"] = torch.zeros(1)
    state["module.classifier.linear.bias"] = torch.zeros(10)
    state["blocks.2.conv.point_linear.conv.conv.weight"] = torch.zeros(3, 4)
    state["final_expand_layer.conv.weight"] = "a string"
    state["classifier.linear.weight"] = torch.zeros(10, 40, dtype=torch.int64)
    path = tmp_path / "net.pth"
    torch.save(state, path)
    with pytest.raises(CheckpointError) as caught:
        load_weights(path, small)
    message = caught.value.message
    assert "2 missing: " in message
    assert "2 unexpected: " in message
    assert "3 misshapen: " in message
    for key in (*gone, "extra.weight", "module.classifier.linear.bias"):
        assert key in message
    assert (
        "blocks.2.conv.point_linear.conv.conv.weight ((3, 4), expected (16, 96, 1, 1))" in message
    )
    assert "final_expand_layer.conv.weight (a str, not a tensor)" in message
    assert "classifier.linear.weight (torch.int64, expected numbers like torch.float32)" in message
    assert caught.value.exit_code == 2


def test_long_lists_are_cut_and_counted(small, tmp_path):
    path = tmp_path / "net.pth"
    torch.save({f"layer{i}\n\x1b[31m": torch.zeros(1) for i in range(1000)}, path)
    with pytest.raises(CheckpointError, match=r"1000 unexpected: .* and 980 more") as caught:
        load_weights(path, small)
    assert caught.value.message.isprintable()


def test_even_the_largest_static_network_is_not_a_supernet(net, small, tmp_path):
    path = tmp_path / "largest.pth"
    torch.save(extract(net, small.largest()).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"8 missing: .*7to5_matrix") as caught:
        load_weights(path, small)
    assert "one static network" in caught.value.hint


def test_a_static_subnet_is_not_a_supernet(net, small, tmp_path):
    path = tmp_path / "subnet.pth"
    torch.save(extract(net, small.smallest()).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"misshapen: blocks.1.conv") as caught:
        load_weights(path, small)
    assert "one static network" in caught.value.hint


def test_weights_of_another_space_are_refused(net, make_space, tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(path, net)
    with pytest.raises(CheckpointError, match="weights of small, not of other"):
        load_weights(path, make_space(name="other"))
    with pytest.raises(CheckpointError, match=r"1 misshapen: first_conv.conv.weight"):
        load_weights(path, make_space(in_channels=3))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_unsound_values_are_refused_and_named(value, state, small, tmp_path):
    state["blocks.2.conv.point_linear.bn.bn.bias"][3] = value
    path = tmp_path / "net.pth"
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"blocks.2.conv.point_linear.bn.bn.bias"):
        load_weights(path, small)


def test_negative_variance_and_overflow_are_refused(state, small, tmp_path):
    path = tmp_path / "net.pth"
    torch.save(state | {"first_conv.bn.running_var": torch.full((8,), -1.0)}, path)
    with pytest.raises(CheckpointError, match=r"first_conv.bn.running_var"):
        load_weights(path, small)
    torch.save(state | {"first_conv.bn.bias": torch.full((8,), 1e300, dtype=torch.float64)}, path)
    with pytest.raises(CheckpointError, match=r"first_conv.bn.bias"):
        load_weights(path, small)


def test_missing_file_exits_5(small, tmp_path):
    with pytest.raises(MissingInputError, match="no weight file") as caught:
        load_weights(tmp_path / "none.pth", small)
    assert caught.value.exit_code == 5


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


def test_hostile_files_are_refused_quickly_and_nothing_runs(state, small, tmp_path):
    canary = tmp_path / "canary"
    corpus = hostile(state, canary, tmp_path / "scratch.safetensors")
    path = None
    for name, data in corpus.items():
        path = tmp_path / name
        path.write_bytes(data)
        started = time.perf_counter()
        with pytest.raises(CheckpointError) as caught:
            load_weights(path, small)
        assert time.perf_counter() - started < 2, name
        assert not canary.exists(), name
        assert caught.value.message.isprintable(), name
        assert len(caught.value.message) < 6000, name
        path.unlink()


def test_the_reason_is_named(state, small, tmp_path):
    corpus = hostile(state, tmp_path / "canary", tmp_path / "scratch.safetensors")
    reasons = {
        "empty.pth": "is empty",
        "text.pth": "is not a weight file",
        "zip cut in the middle.pth": "truncated or damaged",
        "cut.safetensors": "truncated or damaged",
        "2^63.safetensors": "truncated or damaged",
        "zip bomb.pth": "compressed or overlap",
        "overlapping zip.pth": "compressed or overlap",
        "canary 2.pth": "names 'posix system'",
        "canary 5.pth": "names 'posix system'",
        "whole module.pth": "which weights do not need",
        "list.pth": "holds a list instead of a state dict",
    }
    for name, reason in reasons.items():
        (tmp_path / name).write_bytes(corpus[name])
        with pytest.raises(CheckpointError, match=reason):
            load_weights(tmp_path / name, small)


def test_folders_pipes_and_giants_are_refused(small, tmp_path):
    pipe, giant = tmp_path / "pipe.pth", tmp_path / "giant.pth"
    os.mkfifo(pipe)
    with giant.open("wb") as file:
        file.truncate(10 << 30)
    for path, reason in [
        (tmp_path, "not a regular file"),
        (pipe, "not a regular file"),
        (giant, "more than any checkpoint"),
    ]:
        with pytest.raises(CheckpointError, match=reason):
            load_weights(path, small)

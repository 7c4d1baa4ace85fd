"""Weight files that are sound: what they may be spelled and packed like, and what fits."""

import hashlib
import os
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file

from ofatvm.errors import CheckpointError, MissingInputError
from ofatvm.supernet.checkpoint import load_weights, save_weights
from ofatvm.supernet.net import extract
from tests.supernet.weight_files import SPELLINGS, same


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

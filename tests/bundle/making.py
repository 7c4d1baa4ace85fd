"""A tiny compiled network that obeys a bundle's conventions, and bundles of it."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ofatvm.bundle.manifest import Accuracy, Latency, Manifest, Preprocessing, TensorSpec, Weights
from ofatvm.bundle.write import write_bundle
from ofatvm.elf import read_elf
from ofatvm.errors import BundleError
from ofatvm.graph import operator_graph, totals
from ofatvm.spaces import SPACES
from ofatvm.target import Target

SIZE, CLASSES = 128, 1000
ARCH = SPACES["ofa_mbv3_d234_e346_k357_w1.0"].smallest(SIZE)
TARGET = Target(name="x86-64-v2", mcpu="x86-64-v2", num_cores=1)


@dataclass(frozen=True)
class Tiny:
    """A .so with the mean of each channel times a matrix, and one input with its output."""

    model: Path
    given: np.ndarray
    result: np.ndarray


def compile_tiny(folder: Path, scale: float = 1.0) -> Tiny:
    import tvm
    from tvm import relax

    from ofatvm.compiler.link import link_host

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, CLASSES)).astype(np.float32) * np.float32(scale)
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, SIZE, SIZE, 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            mean = builder.emit(relax.op.mean(x, axis=[1, 2]))
            y = builder.emit_output(relax.op.matmul(mean, relax.const(weight)))
        builder.emit_func_output(y)
    target = tvm.target.Target(TARGET.to_dict())
    with target:
        module = relax.transform.LegalizeOps()(builder.get())
    path = folder / "tiny.so"
    relax.build(module, target).export_library(str(path), fcompile=link_host)
    given = rng.standard_normal((1, SIZE, SIZE, 3)).astype(np.float32) + np.float32(0.5)
    return Tiny(path, given, given.mean((1, 2)) @ weight)


def make_manifest(**changes: Any) -> Manifest:
    cost = totals(operator_graph(ARCH))
    fields: dict[str, Any] = {
        "arch": ARCH.encode(),
        "space": ARCH.space.name,
        "resolution": SIZE,
        "weights": Weights(source="untrained"),
        "inputs": (TensorSpec(name="x", shape=(1, SIZE, SIZE, 3), layout="NHWC"),),
        "outputs": (TensorSpec(name="logits", shape=(1, CLASSES), layout="NC"),),
        "preprocessing": Preprocessing(
            resize=147, crop=SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        ),
        "target": TARGET,
        "cpu_features": ("sse4_2",),
        "versions": {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"},
        "latency": Latency(
            value_ms=2.5,
            p90_ms=2.75,
            n=40,
            threads=1,
            device="local",
            kind="measured",
            when="2026-08-01T10:00:00+00:00",
            ci_low_ms=2.4,
            ci_high_ms=2.6,
        ),
        "accuracy": Accuracy(top1_percent=71.5, kind="predicted", on="ImageNet, 50,000 images"),
        "macs": cost.macs,
        "params": cost.params,
        "coverage": 1.0,
        "seeds": {"search": 0},
        "created": "2026-08-01T11:00:00+00:00",
    }
    return Manifest(**(fields | changes))


def make_bundle(tiny: Tiny, out: Path, **options: Any) -> Path:
    given: dict[str, Any] = {
        "model": tiny.model,
        "manifest": make_manifest(),
        "sample_input": tiny.given,
        "sample_output": tiny.result,
        "sample_image": png(),
        "labels": [f"label {index}" for index in range(CLASSES)],
    }
    return write_bundle(out, **(given | options))


def png(size: tuple[int, int] = (40, 30), colour: tuple[int, int, int] = (250, 20, 20)) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def sign(bundle: Path, name: str | None = None, data: bytes | None = None, **fields: Any) -> None:
    """Put `data` into a file and set fields of the manifest, with digests that fit."""
    path = bundle / "manifest.json"
    value = json.loads(path.read_text())
    if name is not None:
        assert data is not None
        (bundle / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        value["files"][name] = {"size_bytes": len(data), "sha256": digest}
        if name == "model.so":
            value["size_bytes"] = len(data)
            with suppress(BundleError):
                facts = read_elf(path.with_name(name))
                value["elf"] = {key: getattr(facts, key) for key in ("machine", "needed", "glibc")}
    path.write_text(json.dumps(value | fields))


def npy(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()

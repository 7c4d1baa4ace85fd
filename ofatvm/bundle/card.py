"""The texts of a bundle that depend on its manifest: the model card and the C++ runner."""

from __future__ import annotations

from pathlib import Path
from string import Template

from ofatvm.bundle.manifest import Latency, Manifest, Preprocessing, TensorSpec
from ofatvm.road import Ir
from ofatvm.target import option_text
from ofatvm.text import counted, literal

TEMPLATES = Path(__file__).resolve().parent / "templates"


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def runner_source() -> str:
    """run.py, the same in every bundle."""
    return _read("run.py")


def cpp_source(shape: tuple[int, ...], kind: str = "llvm", ir: Ir = "relax") -> str:
    """main.cc with the shape of the input, for a target's kind and the runtime of its road."""
    text, network = _read("main.cc"), _read(f"network_{ir}.cc").rstrip()
    text = text.replace("@INCLUDES@", _INCLUDES[ir]).replace("@NETWORK@", network)
    text = text.replace("@DEVICE@", "kDLCUDA" if kind == "cuda" else "kDLCPU")
    return text.replace("@INPUT_SHAPE@", ", ".join(map(str, shape)))


_INCLUDES: dict[Ir, str] = {
    "relax": "#include <tvm/ffi/container/tensor.h>\n"
    "#include <tvm/ffi/extra/module.h>\n"
    "#include <tvm/ffi/function.h>",
    "relay": "#include <tvm/runtime/module.h>\n"
    "#include <tvm/runtime/ndarray.h>\n"
    "#include <tvm/runtime/packed_func.h>",
}
PACKAGES: dict[Ir, tuple[str, ...]] = {
    "relax": ("apache-tvm", "apache-tvm-ffi"),
    "relay": ("xtc-tvm-python-bindings",),
}
"""The wheels whose runtime runs a bundle."""
_PYTHON_NEEDS: dict[Ir, str] = {
    "relax": "numpy pillow",
    "relay": "numpy pillow attrs cloudpickle decorator ml_dtypes packaging psutil "
    "typing_extensions",
}
_ENTRY: dict[Ir, str] = {
    "relax": "`main` in `model.so` takes",
    "relay": "`model.so` is a library of TVM 0.19's graph executor, made through Relay. It takes",
}


def model_card(manifest: Manifest, *, image: bool, licence: str = "") -> str:
    """README.md: what it is, how good and how fast, how to run and verify it.

    `licence` is that of the images the weights were trained on, and the sample, if known.
    """
    template = Template(_read("README.md.in"))
    given, result = manifest.inputs[0], manifest.outputs[0]
    steps, target = manifest.preprocessing, manifest.target
    untrained = manifest.weights.source == "untrained"
    packages = PACKAGES[manifest.ir]
    return template.substitute(
        arch=manifest.arch,
        target=manifest.target.name,
        warning=_WARNING if untrained else "",
        rows="\n".join(f"| {name} | {cell(value)} |" for name, value in _rows(manifest).items()),
        python_needs=_PYTHON_NEEDS[manifest.ir],
        requirements=" ".join(
            f"{name}=={manifest.versions[name]}" for name in packages if name in manifest.versions
        ),
        cpp=_read(f"cpp_{manifest.ir}.md").replace(
            "$CUDA", " -ltvm_runtime_cuda" if target.kind == "cuda" else ""
        ),
        entry=_ENTRY[manifest.ir],
        where=_where(manifest),
        no_wheels=_NO_WHEELS.replace("MACHINE", manifest.machine)
        if manifest.machine not in WHEELS
        else "",
        under_qemu=_under_qemu(manifest),
        on_gpu=_ON_GPU.replace("ARCH", target.arch) if target.kind == "cuda" else "",
        input_name=given.name,
        input_type=_tensor(given),
        output_name=result.name,
        output_type=_tensor(result),
        preprocessing="\n".join(f"{place}. {step}" for place, step in enumerate(_steps(steps), 1)),
        weights_licence=_weights_licence(licence, untrained=untrained),
        image_licence=_image_licence(licence) if image else "",
    )


_WARNING = """
> **The weights are untrained.** They were drawn at random, so the classes that this network names
> are meaningless. Its speed, size and memory are real; an accuracy below is that of the same
> architecture with trained weights.
"""


# The machines for which there are wheels of TVM.
WHEELS = ("x86_64", "aarch64")
_NO_WHEELS = """
There are no wheels of TVM for MACHINE: build its runtime from source, in the versions above.
"""
_UNDER_QEMU = """. On
another machine, `main.cc` runs it under qemu-user if that is installed (`ofatvm doctor` names the
packages), and it is not timed"""


_ON_GPU = """
**It runs on an NVIDIA GPU of ARCH and nowhere else, and it was never run**: there was none where
it was made. `run.py` and `main.cc` copy the input to the GPU and the output back; they need the
driver and `libtvm_runtime_cuda.so` beside `libtvm_runtime.so`. Where TVM's wheel for the board has
none, build TVM's runtime from source with CUDA, in the versions below. Without a GPU, `run.py` ends
with one line that says so.
"""
_NOT_HERE = """. `verify`
never runs GPU code, and says of output and latency that it did not; `run.py` on the board does"""


def _under_qemu(manifest: Manifest) -> str:
    if manifest.target.kind == "cuda":
        return _NOT_HERE
    return _UNDER_QEMU if manifest.machine != "x86_64" else ""


def _where(manifest: Manifest) -> str:
    """On which machine the commands are for, in a sentence."""
    target, cores = manifest.target, manifest.target.num_cores
    return (
        f"On a Linux machine that is {manifest.machine}, in this folder; the code is for "
        f"{target.name} with {cores} core{'s' if cores > 1 else ''}."
    )


def _weights_licence(licence: str, *, untrained: bool) -> str:
    if untrained:
        return "The weights were drawn at random and carry no licence."
    if licence:
        text = literal(licence).rstrip(".")
        return f"The weights were trained on images under this licence: {text}."
    return "The weights carry the licence of the checkpoint they come from; ask its source."


def _image_licence(licence: str) -> str:
    if licence:
        return "\n`sample/image.png` is one of these images."
    return "\n`sample/image.png` is under the licence of its source."


def _steps(steps: Preprocessing) -> tuple[str, ...]:
    side = steps.native or steps.resize
    size = steps.native or steps.crop
    colours = "grey" if steps.channels == "L" else steps.channels
    again = (f"resize that to {steps.crop} x {steps.crop} ({steps.interpolation})",)
    return (
        f"decode it to {colours} pixels",
        f"resize its shorter side to {side} ({steps.interpolation})",
        f"take the central {size} x {size}",
        *(again if size != steps.crop else ()),
        "divide by 255",
        f"subtract the mean {list(steps.mean)} and divide by {list(steps.std)}",
    )


def _rows(manifest: Manifest) -> dict[str, str]:
    target, accuracy = manifest.target, manifest.accuracy
    rows = {"architecture": f"`{manifest.arch}`, a subnet of {manifest.space}"}
    rows["weights"] = "**untrained: its classes are meaningless**"
    if manifest.weights.source == "file":
        detail, digest = manifest.weights.detail, manifest.weights.sha256
        named = digest is None or digest in detail
        rows["weights"] = detail if named else f"{detail} (sha256 {digest})"
    rows["top-1 accuracy"] = "not known"
    if accuracy:
        rows["top-1 accuracy"] = f"{accuracy.top1_percent:.2f} %, {accuracy.kind}: {accuracy.on}"
    if manifest.agreement:
        share, images = manifest.agreement.same_class_percent, manifest.agreement.images
        rows["agreement"] = f"same class as PyTorch for {share:.5g} % of {counted(images, 'image')}"
    if manifest.verified:
        rows["checked against PyTorch"] = str(manifest.verified)
    rows["compiled through"] = {"relax": "Relax", "relay": "Relay (TVM 0.19)"}[manifest.ir]
    if manifest.notes:
        rows["notes"] = "; ".join(manifest.notes)
    rows["latency"] = _latency(manifest.latency)
    rows["multiply-accumulates"] = f"{manifest.macs:,} MACs"
    rows["parameters"] = f"{manifest.params:,}"
    rows["size of model.so"] = f"{manifest.size_bytes:,} bytes"
    rows["coverage"] = f"{manifest.coverage:.1%} of the MACs run in tuned kernels"
    rows["target"] = (
        f"{target.name} ({option_text(target.to_dict())}), fingerprint {target.fingerprint}"
    )
    rows["machine"] = manifest.machine + (f", {manifest.elf}" if manifest.elf else "")
    rows["CPU features needed"] = " ".join(manifest.cpu_features) or "none beyond the baseline"
    rows["made with"] = ", ".join(f"{name} {text}" for name, text in manifest.versions.items())
    rows["seeds"] = ", ".join(f"{name} {seed}" for name, seed in manifest.seeds.items()) or "none"
    rows["made on"] = manifest.created
    return rows


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return "not measured"
    text = f"{latency.value_ms:.3g} ms median"
    if latency.ci_low_ms is not None and latency.ci_high_ms is not None:
        text += f" (95 % interval {latency.ci_low_ms:.3g} to {latency.ci_high_ms:.3g})"
    if latency.p90_ms is not None:
        text += f", p90 {latency.p90_ms:.3g} ms"
    text += f", {counted(latency.n, 'sample')}, {counted(latency.threads, 'thread')}"
    text += f", {latency.kind} on {latency.device}"
    return text + (", unstable: the machine was busy" if latency.unstable else "")


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.dtype} {spec.layout} {spec.shape}"


def cell(text: str) -> str:
    """Text as it may stand in a cell of a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")

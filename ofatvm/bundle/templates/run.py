"""Classify an image with the compiled network beside this file.

    python run.py IMAGE [--top 5]

Needs Python >= 3.9, numpy, Pillow and the TVM runtime: README.md has the line that installs them,
and manifest.json names the versions.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import importlib.util
import json
import math
import os
import platform
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
# Other plugins of Pillow start programs, or open what a picture names.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def main() -> None:
    """Read the command line, run the network, print the most likely classes."""
    parser = argparse.ArgumentParser(description="Classify an image with the network in model.so.")
    parser.add_argument("image", type=Path, help="a BMP, GIF, JPEG, PNG, PPM, TIFF or WebP")
    parser.add_argument("--top", type=int, default=5, help="how many classes to print (default 5)")
    options = parser.parse_args()
    if options.top < 1:
        fail(f"--top must be at least 1, got {options.top}", 2)
    with contextlib.suppress(AttributeError):  # a class may have a name that a terminal lacks
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    manifest = read_manifest()
    check_machine(manifest)
    try:
        import numpy as np
        from PIL import Image
    except ImportError as error:
        fail(f"{error} (pip install numpy pillow)", 5)
    pixels = load_image(options.image, manifest["preprocessing"], np, Image)
    network = load_network(manifest)
    try:
        logits = network(pixels)[0].astype(np.float64)
    except RuntimeError as error:
        fail(f"the network does not run: {error}", 1)
    if not np.isfinite(logits).all():
        fail("the network's output is not finite, so that it names no class", 1)
    powers = np.exp(logits - logits.max())
    chances = powers / powers.sum()
    labels = read_labels(manifest, len(chances))
    if manifest["weights"]["source"] == "untrained":
        print("warning: the weights are UNTRAINED, so these classes mean nothing", file=sys.stderr)
    best = np.argsort(-chances, kind="stable")[: options.top]
    say(f"{n:3d}  {chances[index]:7.4f}  {labels[index]}" for n, index in enumerate(best, start=1))


def say(lines: Iterable[str]) -> None:
    """Print the lines; whoever reads them may have gone, and a disk may be full."""
    try:
        print("\n".join(lines), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where Python writes the rest at its end
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        fail(f"cannot write the classes: {error.strerror}", 1)


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong in one line, and end."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def read_manifest() -> dict[str, Any]:
    """The bundle's manifest, once model.so has the digest that stands in it."""
    try:
        manifest: dict[str, Any] = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        check_fields(manifest)
        model = (HERE / "model.so").read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        fail(f"this bundle is incomplete or damaged: {error}", 2)
    except (TypeError, AttributeError) as error:
        fail(f"this bundle is incomplete or damaged: manifest.json: {error}", 2)
    except KeyError as error:
        fail(f"this bundle is incomplete or damaged: manifest.json has no {error}", 2)
    if hashlib.sha256(model).hexdigest() != manifest["files"]["model.so"]["sha256"]:
        fail("model.so is not the file that manifest.json describes", 2)
    return manifest


def check_fields(manifest: dict[str, Any]) -> None:
    """Raise ValueError for a field that the rest cannot use, TypeError or KeyError if it is odd."""
    steps, target = manifest["preprocessing"], manifest["target"]
    sizes = (steps["resize"], steps["crop"], steps.get("native") or 1)
    numbers = (*steps["mean"], *steps["std"])
    bands = len(steps["channels"])
    right = {
        "machine": isinstance(manifest["machine"], str),
        "cpu_features": all(isinstance(name, str) for name in manifest["cpu_features"]),
        "ir": manifest["ir"] in ("relax", "relay"),
        "labels": manifest["labels"] in (None, "labels.txt"),
        "versions": all(isinstance(text, str) for text in manifest["versions"].values()),
        "weights": isinstance(manifest["weights"]["source"], str),
        "target": isinstance(target["options"]["kind"], str) and 1 <= target["threads"] <= 1024,
        "sizes": all(isinstance(size, int) and 1 <= size <= 1 << 14 for size in sizes),
        "channels": steps["channels"] in ("L", "RGB"),
        "mean or std": len(steps["mean"]) == len(steps["std"]) == bands
        and all(map(math.isfinite, numbers))
        and min(steps["std"]) > 0,
        "interpolation": steps["interpolation"] in ("bilinear", "bicubic"),
        "files": isinstance(manifest["files"]["model.so"]["sha256"], str),
    }
    for name, holds in right.items():
        if not holds:
            raise ValueError(f"the {name} in manifest.json cannot be right")


def check_machine(manifest: dict[str, Any]) -> None:
    """Refuse code that this machine's CPU cannot execute."""
    machine = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
    built = manifest["machine"]
    if machine == "aarch64" and sys.maxsize < 1 << 32:  # a 32-bit system on a 64-bit kernel
        machine = "armv7l"
    if machine != built and not (built == "arm" and machine.startswith("armv")):
        fail(f"this network is compiled for {built}, this machine is {machine}", 2)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    label = "flags" if built in ("x86_64", "i686") else "Features"
    words = {word for line in lines if line.startswith(label) for word in line.split()}
    if not words:  # an emulator shows the file of its host, another kind of machine
        return
    lacking = sorted(set(manifest["cpu_features"]) - words)
    if lacking:
        fail(f"this network needs CPU features that this machine lacks: {' '.join(lacking)}", 2)


def load_image(path: Path, steps: dict[str, Any], np: Any, image_module: Any) -> Any:
    """The image as the network's input: shorter side resized, centre cropped, normalised, NHWC.

    Pictures that a network was trained on have a native size. Where the manifest names it, the
    image is scaled to that first, as they were: what remains are the very pixels of evaluation.
    """
    from PIL import ImageOps, UnidentifiedImageError

    warnings.simplefilter("error", image_module.DecompressionBombWarning)
    if path.exists() and not path.is_file():  # a pipe could wait for ever
        fail(f"{path} is no file", 2)
    try:
        image_module.init()
        formats = [name for name in FORMATS if name in image_module.OPEN]
        with image_module.open(path, formats=formats) as opened:
            if opened.mode == "F" or (opened.mode == "I" and opened.format == "TIFF"):
                raise ValueError("its pixels are 32-bit numbers; save it with 8 or 16 bits")
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # of 16 bits the upper 8 count, as in training
                levels = np.asarray(image).astype(np.int64) >> 8
                image = image_module.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
            elif image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            image = image.convert(steps["channels"])
    except UnidentifiedImageError:
        fail(f"{path} is not an image that Pillow reads", 2)
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        fail(f"cannot read the image {path}: {getattr(error, 'strerror', None) or error}", 2)
    crop = steps["crop"]
    method = getattr(image_module.Resampling, steps["interpolation"].upper())
    if steps.get("native"):
        image = square(image, steps["native"], method).resize((crop, crop), method)
    else:
        # Only the centre is used: of an absurdly long image, the rest goes before it takes memory.
        longest = 8 * min(image.size)
        width, height = (min(side, longest) for side in image.size)
        image = centre(image, width, height)
        scale = steps["resize"] / min(width, height)
        size = (int(width * scale + 1e-6), int(height * scale + 1e-6))
        image = centre(image.resize(size, method), crop, crop)
    values = np.asarray(image, dtype=np.float32) / 255
    values = values.reshape(1, crop, crop, len(steps["mean"]))
    mean, std = (np.array(steps[key], dtype=np.float32) for key in ("mean", "std"))
    return ((values - mean) / std).astype(np.float32)


def square(image: Any, size: int, method: Any) -> Any:
    """The image with its shorter side at `size` and its longer side cropped to that."""
    short = min(image.size)
    wide, high = (max(size, int(side * size / short + 0.5)) for side in image.size)
    left, top = (wide - size) // 2, (high - size) // 2
    box = (
        left * image.width / wide,
        top * image.height / high,
        min(image.width, (left + size) * image.width / wide),
        min(image.height, (top + size) * image.height / high),
    )
    return image.resize((size, size), method, box=box)


def centre(image: Any, width: int, height: int) -> Any:
    """The central part of an image."""
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def load_network(manifest: dict[str, Any]) -> Any:
    """A function from the input array to the output array."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = min(manifest["target"]["threads"], cores or 1)
    os.environ.setdefault("TVM_NUM_THREADS", str(threads))
    needed = " ".join(
        f"{name}=={manifest['versions'][name]}"
        for name in ("apache-tvm", "apache-tvm-ffi", "xtc-tvm-python-bindings")
        if name in manifest["versions"]
    )
    on_gpu = manifest["target"]["options"]["kind"] == "cuda"
    try:
        runtime = RelayRuntime() if manifest["ir"] == "relay" else Runtime(on_gpu)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        fail(f"no TVM runtime: {error} (pip install {needed})", 5)
    if isinstance(runtime, Runtime) and on_gpu and not runtime.has_gpu():
        fail("this network needs an NVIDIA GPU, its driver and TVM's CUDA runtime; none is here", 4)
    try:
        return runtime.network(HERE / "model.so")
    except RuntimeError as error:
        fail(f"cannot load model.so: {error} (it was compiled with {needed})", 1)


class RelayRuntime:
    """TVM 0.19's graph executor, which runs what was compiled through Relay."""

    def __init__(self) -> None:
        """Import TVM's Python package on its runtime library alone; ImportError without them."""
        os.environ["TVM_USE_RUNTIME_LIB"] = "1"
        import tvm

        if not tvm.__version__.startswith("0.19."):
            raise ImportError(f"this is TVM {tvm.__version__}, not 0.19")

    def network(self, path: Path) -> Any:
        """The network in a file, from array to array; RuntimeError if it cannot be loaded."""
        import tvm
        from tvm.contrib import graph_executor

        library = tvm.runtime.load_module(str(path))
        module = graph_executor.GraphModule(library["default"](tvm.cpu()))

        def run(pixels: Any) -> Any:
            module.run(x=pixels)
            return module.get_output(0).numpy()

        return run


class Value(ctypes.Structure):
    """TVMFFIAny: a value with its type, or a pointer to an object."""

    _fields_ = (("type", ctypes.c_int32), ("zero", ctypes.c_uint32), ("value", ctypes.c_int64))


class Bytes(ctypes.Structure):
    """TVMFFIByteArray."""

    _fields_ = (("data", ctypes.c_char_p), ("size", ctypes.c_size_t))


class Tensor(ctypes.Structure):
    """DLTensor, and behind it what makes it a DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("dimensions", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class Runtime:
    """TVM's runtime libraries, called by their C interface, tvm/ffi/c_api.h.

    Importing tvm, or tvm_ffi, would take 20 to 100 times as long as this, and more memory.
    """

    INT, BOOL, POINTER, STRING, TENSOR = 1, 2, 4, 8, 70  # TVMFFITypeIndex
    HEADER_BYTES = 24  # TVMFFIObject, before what an object holds
    CPU, CUDA, POOLED_ALLOCATOR, FLOAT = 1, 2, 2, 2
    ALIGNMENT = 64

    def __init__(self, on_gpu: bool = False) -> None:
        """Load the libraries; ImportError or OSError if they are not installed."""
        self.ffi = self._library("tvm_ffi", "libtvm_ffi.so")
        self._library("tvm", "libtvm_runtime.so")
        self.device = self.CUDA if on_gpu else self.CPU
        if on_gpu:
            # Without a driver it does not load; whether there is a GPU is asked afterwards.
            with contextlib.suppress(ImportError, OSError):
                self._library("tvm", "libtvm_runtime_cuda.so")

    def has_gpu(self) -> bool:
        """Whether the runtime sees a GPU."""
        exists = 0  # TVM's kExist
        return bool(self._call(self._global("runtime.GetDeviceAttr"), self.CUDA, 0, exists).value)

    @staticmethod
    def _library(package: str, name: str) -> Any:
        found = importlib.util.find_spec(package)
        if found is None:
            raise ImportError(f"No module named {package!r}")
        for folder in found.submodule_search_locations or ():
            path = Path(folder) / "lib" / name
            if path.is_file():
                return ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        raise ImportError(f"{package} has no {name}")

    def network(self, path: Path) -> Any:
        """The network in a file, from array to array; RuntimeError if it cannot be loaded."""
        import numpy as np

        library = self._call(self._global("ffi.ModuleLoadFromFile"), str(path))
        machine = self._call(self._function(library, "vm_load_executable"))
        start = self._function(machine, "vm_initialization")
        devices = dict.fromkeys((self.device, self.CPU))
        self._call(start, *(n for each in devices for n in (each, 0, self.POOLED_ALLOCATOR)))
        main = self._function(machine, "main")

        def run(pixels: Any) -> Any:
            # A copy that starts where TVM's own tensors may: at a multiple of 64 bytes.
            room = np.empty(pixels.nbytes + self.ALIGNMENT, np.uint8)
            first = -room.ctypes.data % self.ALIGNMENT
            copy = room[first : first + pixels.nbytes].view(np.float32).reshape(pixels.shape)
            copy[...] = pixels
            shape = (ctypes.c_int64 * copy.ndim)(*copy.shape)
            strides = (ctypes.c_int64 * copy.ndim)(*(step // 4 for step in copy.strides))
            given = Tensor(data=copy.ctypes.data, dimensions=copy.ndim, shape=shape)
            given.device[0], given.strides = self.CPU, strides
            given.code, given.bits, given.lanes = self.FLOAT, 32, 1
            handle = ctypes.c_void_p()
            self._check(
                self.ffi.TVMFFITensorFromDLPack(ctypes.byref(given), 0, 1, ctypes.byref(handle))
            )
            tensor = Value(self.TENSOR, 0, handle.value)
            on_cpu = self.device == self.CPU
            result = self._call(main, tensor) if on_cpu else self._stateful(machine, tensor)
            taken = Tensor.from_address(result.value + self.HEADER_BYTES)
            size = taken.shape[: taken.dimensions]
            numbers = ctypes.POINTER(ctypes.c_float * math.prod(size))
            if on_cpu:
                output = np.array(ctypes.cast(taken.data, numbers).contents).reshape(size)
            else:
                output = np.empty(size, np.float32)
                where = Value(self.POINTER, 0, output.ctypes.data)
                copy_out = self._global("runtime.TVMTensorCopyToBytes")
                self._call(copy_out, Value(self.TENSOR, 0, result.value), where, output.nbytes)
            for used in (handle, ctypes.c_void_p(result.value)):
                self.ffi.TVMFFIObjectDecRef(used)
            return output

        return run

    def _stateful(self, machine: Value, tensor: Value) -> Value:
        """The output of `main` on the GPU, to which the virtual machine copies the input."""
        self._call(self._function(machine, "set_input"), "main", tensor)
        self._call(self._function(machine, "invoke_stateful"), "main")
        return self._call(self._function(machine, "get_output"), "main")

    def _global(self, name: str) -> Value:
        handle, text = ctypes.c_void_p(), name.encode()
        self._check(
            self.ffi.TVMFFIFunctionGetGlobal(
                ctypes.byref(Bytes(text, len(text))), ctypes.byref(handle)
            )
        )
        if not handle.value:
            raise RuntimeError(f"the TVM runtime has no {name}")
        return Value(value=handle.value)

    def _function(self, module: Value, name: str) -> Value:
        found = self._call(self._global("ffi.ModuleGetFunction"), module, name, True)
        if not found.type:
            raise RuntimeError(f"it has no function {name}")
        return found

    def _call(self, function: Value, *given: Any) -> Value:
        """The result of a function; objects in it are the caller's."""
        arguments, texts = (Value * len(given))(), []
        for place, value in enumerate(given):
            if isinstance(value, Value):
                arguments[place] = value
            elif isinstance(value, str):
                texts.append(ctypes.create_string_buffer(os.fsencode(value)))
                arguments[place] = Value(self.STRING, 0, ctypes.addressof(texts[-1]))
            else:
                kind = self.BOOL if isinstance(value, bool) else self.INT
                arguments[place] = Value(kind, 0, int(value))
        result = Value()
        self._check(
            self.ffi.TVMFFIFunctionCall(
                ctypes.c_void_p(function.value), arguments, len(given), ctypes.byref(result)
            )
        )
        return result

    def _check(self, code: int) -> None:
        if code == 0:
            return
        error = ctypes.c_void_p()
        self.ffi.TVMFFIErrorMoveFromRaised(ctypes.byref(error))
        # The cell of an error begins with its kind and its message.
        message = Bytes.from_address((error.value or 0) + self.HEADER_BYTES + ctypes.sizeof(Bytes))
        raise RuntimeError((message.data or b"").decode("utf-8", "replace"))


def read_labels(manifest: dict[str, Any], count: int) -> list[str]:
    """The names of the classes, or their numbers where the bundle has none."""
    if not manifest["labels"]:
        return [f"class {index}" for index in range(count)]
    try:
        labels = (HERE / manifest["labels"]).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        fail(f"cannot read the labels: {error}", 2)
    if len(labels) != count:
        fail(f"labels.txt has {len(labels)} lines for {count} classes", 2)
    return labels


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)

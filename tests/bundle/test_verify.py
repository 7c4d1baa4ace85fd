"""Verifying loads nothing before everything else was checked, and then compares and times."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofatvm.bundle import verify as verify_module
from ofatvm.bundle.verify import verify_bundle
from ofatvm.device import cpu_features, qemu
from ofatvm.errors import BundleError, MeasurementError, MissingInputError, UsageError
from ofatvm.events import Event, StageFinished, StageStarted
from tests.bundle.making import CLASSES, Tiny, make_bundle, npy, sign

CANARY = """
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void sing(void) {
  int file = open(CANARY, O_CREAT | O_WRONLY, 0600);
  if (file >= 0) close(file);
}
"""


def build(source: str, out: Path, *options: str) -> bytes:
    code = out.with_suffix(".c")
    code.write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", *options, "-o", out, code], check=True)
    return out.read_bytes()


@pytest.fixture(scope="module")
def canary(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle whose model.so leaves a file when it is loaded, and that file's path."""
    folder = tmp_path_factory.mktemp("canary")
    song = folder / "song"
    code = build(CANARY, folder / "canary.so", f'-DCANARY="{song}"')
    bundle = make_bundle(tiny, folder / "bundle")
    sign(bundle, "model.so", code)
    return bundle, song


def test_a_sound_bundle_passes(bundle: Path) -> None:
    events: list[Event] = []
    report = verify_bundle(bundle, on_event=events.append)
    assert [check.name for check in report.checks] == [
        "files",
        "digests",
        "model.so",
        "agreement",
        "output",
        "latency",
    ]
    assert {check.status for check in report.checks} == {"ok"}
    assert report.ran
    assert report.max_error is not None
    assert report.max_error <= 1e-5
    assert report.latency_ms is not None
    assert report.p90_ms is not None
    assert 0 < report.latency_ms <= report.p90_ms
    assert (report.threads, report.calls) == (1, 50)
    assert isinstance(events[0], StageStarted)
    assert isinstance(events[-1], StageFinished)


def test_the_canary_sings_when_it_is_loaded(canary: tuple[Path, Path]) -> None:
    bundle, song = canary
    assert verify_bundle(bundle, run=False).ran is False
    assert not song.exists()
    with pytest.raises(MeasurementError, match=r"model.so failed"):
        verify_bundle(bundle)
    assert song.exists()
    song.unlink()


def flip(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        data = bytearray((bundle / name).read_bytes())
        data[len(data) // 2] ^= 1
        (bundle / name).write_bytes(data)

    return change


def cut(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        os.truncate(bundle / name, (bundle / name).stat().st_size - 1)

    return change


def link(name: str, *, hard: bool) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        outside = bundle.parent / "outside"
        (bundle / name).rename(outside)
        (bundle / name).hardlink_to(outside) if hard else (bundle / name).symlink_to(outside)

    return change


def listed(name: str, entry: Any = None) -> Callable[[Path], None]:
    """List another file in the manifest."""

    def change(bundle: Path) -> None:
        text = (bundle / "manifest.json").read_text()
        row = f'"{name}": {{"size_bytes": 0, "sha256": "{"0" * 64}"}}, '
        text = text.replace('"files": {', '"files": {' + row)
        (bundle / "manifest.json").write_text(text)

    return change


def pipe(bundle: Path) -> None:
    (bundle / "labels.txt").unlink()
    os.mkfifo(bundle / "labels.txt")


def unix_socket(bundle: Path) -> None:
    (bundle / "labels.txt").unlink()
    before = Path.cwd()
    os.chdir(bundle)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind("labels.txt")
    finally:
        os.chdir(before)


def sparse(bundle: Path) -> None:
    os.truncate(bundle / "labels.txt", 10 << 30)


def linked_folder(bundle: Path) -> None:
    (bundle / "sample").rename(bundle.parent / "elsewhere")
    (bundle / "sample").symlink_to(bundle.parent / "elsewhere")


def linked_manifest(bundle: Path) -> None:
    link("manifest.json", hard=False)(bundle)


def manifest_folder(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").mkdir()


def huge_manifest(bundle: Path) -> None:
    os.truncate(bundle / "manifest.json", 10 << 30)


def file_as_folder(bundle: Path) -> None:
    (bundle / "model.so").unlink()
    (bundle / "model.so").mkdir()


def foreign_code(bundle: Path) -> None:
    data = bytearray((bundle / "model.so").read_bytes())
    struct.pack_into("<H", data, 18, 183)
    sign(bundle, "model.so", bytes(data))


def signed(name: str | None = None, data: bytes | None = None, **fields: Any) -> Any:
    return lambda bundle: sign(bundle, name, data, **fields)


OBJECTS = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    + b" " * 60
    + b"\n"
)
HUGE = npy(np.zeros((1, CLASSES), np.float32)).replace(b"(1, 1000),", b"(99,9999),")

BAD = {
    "flipped model": (flip("model.so"), "model.so does not have the sha256"),
    "flipped runner": (flip("run.py"), "run.py does not have the sha256"),
    "flipped C++ runner": (flip("main.cc"), "main.cc does not have the sha256"),
    "flipped card": (flip("README.md"), "README.md does not have the sha256"),
    "flipped input": (flip("sample/input.npy"), "input.npy does not have the sha256"),
    "flipped output": (flip("sample/output.npy"), "output.npy does not have the sha256"),
    "flipped image": (flip("sample/image.png"), "image.png does not have the sha256"),
    "flipped labels": (flip("labels.txt"), "labels.txt does not have the sha256"),
    "cut model": (cut("model.so"), "model.so has .* bytes, manifest.json says"),
    "cut manifest": (cut("manifest.json"), None),
    "sparse file": (sparse, "labels.txt has 10737418240 bytes"),
    "huge manifest": (huge_manifest, "at most 1048576"),
    "symbolic link": (link("model.so", hard=False), "'model.so' is a symbolic link"),
    "hard link": (link("model.so", hard=True), "'model.so' is a hard link"),
    "linked manifest": (linked_manifest, "'manifest.json' is a symbolic link"),
    "linked folder": (linked_folder, "'sample' is a symbolic link"),
    "manifest is a folder": (manifest_folder, "plain files only"),
    "model is a folder": (file_as_folder, "folder 'model.so' is not listed"),
    "pipe": (pipe, "device, pipe or socket"),
    "socket": (unix_socket, "device, pipe or socket"),
    "absolute name": (listed("/etc/passwd"), "'/etc/passwd' in manifest.json is absolute"),
    "name outside": (listed("../outside"), "leaves the bundle"),
    "name outside, deeper": (listed("sample/../../x"), "leaves the bundle"),
    "listed, not there": (listed("more.txt"), "more.txt is listed in manifest.json and is not"),
    "listed twice": (listed("model.so"), "a key stands there twice"),
    "extra file": (lambda b: (b / "extra.so").touch(), "'extra.so' is not listed"),
    "hidden file": (lambda b: (b / ".x").touch(), "'.x' is not listed"),
    "extra folder": (lambda b: (b / "more").mkdir(), "folder 'more' is not listed"),
    "file taken away": (lambda b: (b / "run.py").unlink(), "run.py is listed .* is not there"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "has no manifest.json"),
    "text as model": (signed("model.so", b"#!/bin/sh\n"), "not an ELF file"),
    "foreign model": (foreign_code, "model.so is for aarch64, manifest.json says 'x86_64'"),
    "false size": (signed(size_bytes=1), "size_bytes 1, which should be"),
    "false macs": (signed(macs=7), "macs 7, which should be"),
    "false arch": (signed(arch="mbv3w1.0/128/33"), "manifest.json: "),
    "false machine": (signed(machine="riscv64"), "manifest.json says 'riscv64'"),
    "false labels": (signed(labels="/etc/passwd"), "not labels.txt"),
    "false needs": (
        signed(elf={"machine": "x86_64", "needed": [], "glibc": None}),
        "model.so needs libc.so.6, glibc 2.2.5; manifest.json says that it needs no library by",
    ),
    "no labels": (signed(labels=None), "labels null"),
    "few labels": (signed("labels.txt", b"one\n"), "1 lines for 1000 classes"),
    "binary labels": (signed("labels.txt", b"\xff\n" * CLASSES), "not UTF-8"),
    "pickled sample": (signed("sample/input.npy", OBJECTS), "not a .npy array"),
    "huge sample": (signed("sample/output.npy", HUGE), "has shape"),
    "long sample": (signed("sample/output.npy", bytes(10_000)), "larger than shape"),
    "cut sample": (
        signed("sample/output.npy", npy(np.zeros((1, CLASSES), np.float32))[:-4]),
        "3996 bytes of numbers, not 4000",
    ),
    "zip as sample": (signed("sample/input.npy", b"PK\x03\x04" * 9), "not a .npy array"),
    "double sample": (
        signed("sample/input.npy", npy(np.zeros((1, 2, 3)))),
        "not an array of float32, but <f8",
    ),
    "endless sample": (
        signed("sample/output.npy", npy(np.full((1, CLASSES), np.inf, np.float32))),
        "not finite",
    ),
    "other shape": (
        signed("sample/output.npy", npy(np.zeros((1, 10), np.float32))),
        r"has shape \(1, 10\)",
    ),
    "other schema": (signed(schema=99), "has schema 99"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_or_malicious_bundle_is_refused_before_it_is_loaded(
    canary: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    change, message = BAD[name]
    original, song = canary
    bundle = shutil.copytree(original, tmp_path / "bundle")
    change(bundle)
    with pytest.raises(BundleError, match=message) as caught:
        verify_bundle(bundle)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    assert not song.exists()


def test_a_device_node_is_refused(canary: tuple[Path, Path], tmp_path: Path) -> None:
    bundle = shutil.copytree(canary[0], tmp_path / "bundle")
    (bundle / "labels.txt").unlink()
    try:
        os.mknod(bundle / "labels.txt", 0o20600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("needs the right to make device nodes")
    with pytest.raises(BundleError, match="device, pipe or socket"):
        verify_bundle(bundle)


def test_a_missing_bundle_is_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="there is no bundle"):
        verify_bundle(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="is not a folder"):
        verify_bundle(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    with pytest.raises(BundleError, match="is not a folder"):
        verify_bundle(tmp_path / "dangling")


def test_a_link_to_a_bundle_is_fine(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(bundle)
    assert not verify_bundle(tmp_path / "latest", run=False).ran


def test_a_foreign_bundle_is_checked_and_not_run_without_an_emulator(
    canary: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "emulator_program", lambda machine: None)
    bundle = shutil.copytree(canary[0], tmp_path / "bundle")
    foreign_code(bundle)
    sign(bundle, machine="aarch64")
    report = verify_bundle(bundle)
    assert not report.ran
    assert [(check.name, check.status) for check in report.checks][-2:] == [
        ("output", "not run"),
        ("latency", "not run"),
    ]
    reason = report.checks[-1].detail
    assert reason.startswith(f"compiled for aarch64, this machine is {platform.machine()}, and ")
    assert "lacks qemu-aarch64" in reason
    assert "apt-get install qemu-user libc6-arm64-cross libstdc++6-arm64-cross" in reason
    assert reason.endswith("; or verify it on its own board")
    assert report.to_dict()["latency"] is None
    assert not canary[1].exists()


def test_a_library_that_no_board_has_is_refused(
    canary: tuple[Path, Path], tiny: Tiny, tmp_path: Path
) -> None:
    bundle = shutil.copytree(canary[0], tmp_path / "bundle")
    build("int one(void) { return 1; }", tmp_path / "libown.so")
    options = ("-Wl,--no-as-needed", f"-L{tmp_path}", "-lown")
    sign(bundle, "model.so", build("int two(void) { return 2; }", tmp_path / "b.so", *options))
    with pytest.raises(BundleError, match=r"cannot be loaded on a board: it needs libown\.so"):
        verify_bundle(bundle, run=False)


def test_code_for_a_cpu_with_more_features_is_not_run(
    canary: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shutil.copytree(canary[0], tmp_path / "bundle")
    sign(bundle, cpu_features=["avx2", "avx512f", "sse4_2"])
    monkeypatch.setattr(cpu_features, "host_features", lambda: frozenset({"sse4_2", "avx2"}))
    report = verify_bundle(bundle)
    assert [(check.status, check.detail) for check in report.checks[-2:]] == [
        ("not run", "needs CPU features that this machine lacks: avx512f")
    ] * 2
    assert (report.ran, report.to_dict()["ran"], report.latency_ms) == (False, False, None)
    assert not canary[1].exists()


def output(change: Callable[[np.ndarray], None], tiny: Tiny) -> bytes:
    changed = tiny.result.copy()
    change(changed)
    return npy(changed)


def test_another_output_is_refused(bundle: Path, tiny: Tiny) -> None:
    largest = np.abs(tiny.result).max()

    def add(share: float) -> Callable[[np.ndarray], None]:
        return lambda array: np.put(array, 3, array.flat[3] + share * largest)

    sign(bundle, "sample/output.npy", output(add(2e-3), tiny))
    with pytest.raises(BundleError, match=r"does not give sample/output.npy: max error 0.002"):
        verify_bundle(bundle)
    sign(bundle, "sample/output.npy", output(add(5e-4), tiny))
    assert verify_bundle(bundle).max_error == pytest.approx(5e-4, rel=0.02)


def test_another_top_class_is_refused_however_near() -> None:
    expected = np.array([[1.0, 0.9999, 0.5]], np.float32)
    assert verify_module.compare(expected, expected) == 0
    with pytest.raises(BundleError, match="its top class is 1, not 0"):
        verify_module.compare(np.array([[0.9999, 1.0, 0.5]], np.float32), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_refused(bad: float) -> None:
    expected = np.array([[1.0, 0.5]], np.float32)
    with pytest.raises(BundleError, match="max error"):
        verify_module.compare(np.array([[1.0, bad]], np.float32), expected)
    with pytest.raises(BundleError, match="gives shape"):
        verify_module.compare(np.ones((1, 3), np.float32), expected)


def test_an_output_of_zeros_must_be_zeros() -> None:
    zeros = np.zeros((1, 4), np.float32)
    assert verify_module.compare(zeros, zeros) == 0
    with pytest.raises(BundleError, match="max error"):
        verify_module.compare(zeros + np.float32(0.5), zeros)


def test_threads_are_those_of_the_manifest_or_given(bundle: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    assert verify_bundle(bundle, threads=cores).threads == cores
    for threads in (0, -1, cores + 1):
        with pytest.raises(UsageError, match=f"threads must be 1 to {cores}"):
            verify_bundle(bundle, threads=threads)


def test_code_that_hangs_is_stopped(bundle: Path, tmp_path: Path) -> None:
    source = (
        "#include <unistd.h>\n"
        "__attribute__((constructor)) static void hang(void) { for (;;) pause(); }"
    )
    sign(bundle, "model.so", build(source, tmp_path / "hang.so"))
    with pytest.raises(MeasurementError, match="took longer than 4 s and was stopped"):
        verify_bundle(bundle, timeout_s=4)

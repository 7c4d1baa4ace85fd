"""A manifest is read strictly: what is odd is one BundleError."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofatvm.bundle.manifest import (
    SCHEMA,
    Agreement,
    Elf,
    FileEntry,
    Latency,
    Manifest,
    Preprocessing,
    TensorSpec,
    Verified,
    parse_manifest,
)
from ofatvm.errors import BundleError
from tests.bundle.making import make_manifest

ENTRY = FileEntry(size_bytes=1, sha256="0" * 64)
GOOD = make_manifest(files={"model.so": ENTRY}, machine="x86_64").to_json()


def changed(**changes: Any) -> bytes:
    return json.dumps(json.loads(GOOD) | changes).encode()


def inside(*path: Any, value: Any) -> bytes:
    whole = json.loads(GOOD)
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "preprocessing": Preprocessing(
                resize=28, crop=28, mean=(0.3,) * 3, std=(1,) * 3, native=32
            )
        },
        {"latency": None, "accuracy": None},
        {"cpu_features": (), "seeds": {}},
        {"agreement": Agreement(images=10_000, same_class_percent=99.99)},
    ],
)
def test_a_manifest_survives_the_round_trip(changes: dict[str, Any]) -> None:
    manifest = make_manifest(**changes)
    assert parse_manifest(manifest.to_json().encode()) == manifest


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": 1, "a": 1}', "a key stands there twice"),
        (b" " * (1 << 20) + b"{}", "at most 1048576"),
        (b"[]", "not of a bundle"),
        (b'{"schema": 1}', "not of a bundle"),
        (changed(schema=99), f"has schema 99, this ofatvm reads 1 to {SCHEMA}"),
        (changed(schema=True), "has schema True"),
        (changed(extra=1), "unknown key 'extra'"),
        (GOOD.replace('"coverage": 1.0,', "").encode(), "lacks coverage"),
        (changed(coverage=1.5), "coverage must be 0 to 1"),
        (GOOD.replace('"coverage": 1.0', '"coverage": NaN').encode(), "NaN is not a number"),
        (GOOD.replace('"coverage": 1.0', '"coverage": 1e999').encode(), "out of range"),
        (changed(macs="many"), "macs must be a int, got str"),
        (changed(macs=True), "macs must be a int, got bool"),
        (changed(macs=-1), "macs must not be negative"),
        (changed(macs=10**40), "out of range"),
        (changed(macs=10**400), "out of range"),
        (changed(arch=None), "arch must be a str, got NoneType"),
        (changed(arch="a" * 5000), "longer than"),
        (changed(inputs=[]), "exactly one of inputs"),
        (changed(latency=3), "latency must be a dict"),
        (inside("latency", "value_ms", value=0), "value_ms must be above 0"),
        (inside("latency", "kind", value="guessed"), "kind must be one of"),
        (inside("inputs", 0, "dtype", value="float64"), "dtype must be one of"),
        (inside("inputs", 0, "shape", value=[1, -1, 2, 3]), "positive sizes"),
        (inside("inputs", 0, "shape", value=[1 << 40]), "positive sizes"),
        (inside("inputs", 0, "shape", value=[1 << 62] * 40_000), "has 40000 axes, at most 8 may"),
        (inside("inputs", 0, "layout", value="N"), "must name 4 axes"),
        (inside("preprocessing", "crop", value=4000), "1 <= crop <= resize"),
        (inside("preprocessing", "std", value=[0, 1, 1]), "std above 0"),
        (inside("preprocessing", "mean", value=[0]), "each channel"),
        (inside("target", "fingerprint", value="0" * 12), "its options give"),
        (inside("target", "options", "mcpu", value="x y"), "target makes no sense"),
        (inside("target", "other", value=1), "exactly the keys"),
        (inside("files", "/etc/passwd", value={}), "lacks sha256, size_bytes"),
        (inside("files", "model.so", "sha256", value="xyz"), "64 hex digits"),
        (inside("files", "model.so", "size_bytes", value=1 << 60), "size_bytes must be"),
        (changed(cpu_features=["avx2; rm"]), "CPU feature"),
        (changed(agreement={"images": 0, "same_class_percent": 100}), "images must be at least 1"),
        (changed(agreement={"images": 9, "same_class_percent": 101}), "must be 0 to 100"),
    ],
)
def test_what_is_odd_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message.replace("[", r"\[")):
        parse_manifest(data)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("/etc/passwd", "absolute"),
        ("../x", "leaves the bundle"),
        ("a/../../x", "leaves the bundle"),
        ("a//b", "not allowed"),
        ("./a", "not allowed"),
        ("a\\b", "not allowed"),
        ("a\x00b", "not allowed"),
        ("a\n", "not allowed"),
        ("", "not allowed"),
        (".hidden", "not allowed"),
        ("a/b/c/d/e/f", "not allowed"),
        ("manifest.json", "not allowed"),
        ("ä", "not allowed"),
        ("x" * 200, "not allowed"),
    ],
)
def test_file_names_stay_inside(name: str, rule: str) -> None:
    with pytest.raises(BundleError, match=rule):
        make_manifest(files={name: ENTRY})


def test_a_bundle_of_schema_1_says_nothing_of_agreement() -> None:
    old = json.loads(GOOD)
    del old["agreement"]
    assert parse_manifest(json.dumps(old | {"schema": 1}).encode()).agreement is None
    with pytest.raises(BundleError, match="lacks agreement"):
        parse_manifest(json.dumps(old).encode())


def test_bundles_of_older_schemas_say_nothing_of_elf_and_verification() -> None:
    old = json.loads(GOOD)
    del old["elf"], old["verified"]
    read = parse_manifest(json.dumps(old | {"schema": 2}).encode())
    assert (read.elf, read.verified) == (None, None)
    with pytest.raises(BundleError, match="lacks elf, verified"):
        parse_manifest(json.dumps(old).encode())


def test_bundles_before_schema_5_came_through_relax() -> None:
    old = json.loads(GOOD)
    assert old.pop("ir") == "relax"
    assert parse_manifest(json.dumps(old | {"schema": 4}).encode()).ir == "relax"
    with pytest.raises(BundleError, match="lacks ir"):
        parse_manifest(json.dumps(old).encode())
    with pytest.raises(BundleError, match="ir must be one of"):
        parse_manifest(changed(ir="tir"))


def test_bundles_before_schema_6_scale_pictures_once() -> None:
    old = json.loads(GOOD)
    assert old["preprocessing"].pop("native") is None
    for schema in range(1, 6):
        read = parse_manifest(json.dumps(old | {"schema": schema}).encode())
        assert read.preprocessing.native is None
    with pytest.raises(BundleError, match=r"preprocessing lacks native"):
        parse_manifest(json.dumps(old).encode())
    with pytest.raises(BundleError, match=r"preprocessing must be a dict"):
        parse_manifest(json.dumps(old | {"schema": 5, "preprocessing": 3}).encode())


@pytest.mark.parametrize(("native", "crop"), [(0, 28), (1 << 15, 28), (32, 20)])
def test_a_native_size_goes_with_no_margin(native: int, crop: int) -> None:
    with pytest.raises(BundleError, match="crop = resize"):
        Preprocessing(resize=28, crop=crop, mean=(0.3,) * 3, std=(0.3,) * 3, native=native)


def test_how_code_was_verified_is_kept() -> None:
    for verified in (
        Verified(how="by main.cc under qemu-aarch64 7.2", max_error=1e-6, images=5),
        Verified.not_run("this machine lacks qemu-arm"),
    ):
        elf = Elf(machine="aarch64", needed=("libc.so.6",), glibc="2.17")
        text = make_manifest(verified=verified, elf=elf).to_json()
        read = parse_manifest(text.encode())
        assert (read.verified, read.elf) == (verified, elf)
    assert str(verified) == "not run: this machine lacks qemu-arm"
    assert not verified.ran
    with pytest.raises(BundleError, match="for images, and for none only"):
        Verified(how="x", max_error=None, images=3)


def test_too_many_files_are_refused() -> None:
    with pytest.raises(BundleError, match="at most 64 files"):
        make_manifest(files={f"f{number}": ENTRY for number in range(65)})


def test_a_failed_measurement_gives_no_latency(make_measurement: Any) -> None:
    good = make_measurement()
    figure = Latency.of(good)
    assert (figure.value_ms, figure.p90_ms, figure.n, figure.threads) == (4.5, 4.9, 3, 2)
    with pytest.raises(BundleError, match="no latency: it crashed"):
        Latency.of(
            make_measurement(
                latency_ms=None, p90_ms=None, ci_low_ms=None, ci_high_ms=None, error="it crashed"
            )
        )


def test_grey_images_have_one_channel() -> None:
    assert Preprocessing(resize=32, crop=28, mean=(0.3,), std=(0.3,), channels="L").crop == 28
    assert TensorSpec(name="x", shape=(1, 28, 28, 1), layout="NHWC").dtype == "float32"


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(key=st.sampled_from(sorted(json.loads(GOOD))), value=plain)
def test_any_value_of_any_key_gives_a_manifest_or_a_bundle_error(key: str, value: Any) -> None:
    with contextlib.suppress(BundleError):
        assert isinstance(parse_manifest(changed(**{key: value})), Manifest)


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_gives_a_manifest_or_a_bundle_error(position: int, byte: int) -> None:
    data = bytearray(GOOD.encode())
    data[position] = byte
    with contextlib.suppress(BundleError):
        assert isinstance(parse_manifest(bytes(data)), Manifest)

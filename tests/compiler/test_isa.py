from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from ofatvm.compiler import isa
from ofatvm.compiler.isa import (
    check_cpu,
    host_target,
    tvm_target,
    vector_unit,
    with_family,
)
from ofatvm.compiler.plan import Workload
from ofatvm.compiler.resolve import resolve
from ofatvm.compiler.space import VectorUnit, default_config, schedule_space
from ofatvm.errors import TargetError
from ofatvm.paths import data_dir
from ofatvm.target import Target
from tests.targets import parse_target

x86_only = pytest.mark.skipif(os.uname().machine != "x86_64", reason="about x86 CPUs")
AVX512_FLAGS = [
    "avx",
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
    "bmi2",
    "f16c",
    "fma",
]


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("llvm -mcpu=x86-64-v4 -num-cores=2", VectorUnit(16, 32, 2)),
        ("llvm -mcpu=x86-64-v4 -mattr=-prefer-256-bit", VectorUnit(16, 32, 1)),
        ("llvm -mcpu=x86-64-v4 -mattr=-avx512f", VectorUnit(8, 16, 1)),
        ("llvm -mcpu=x86-64-v3 -num-cores=8", VectorUnit(8, 16, 8)),
        ("llvm -mcpu=x86-64-v2", VectorUnit(4, 16, 1)),
        ("llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72 -num-cores=4", VectorUnit(4, 32, 4)),
        ("llvm -mtriple=arm64-linux-gnu", VectorUnit(4, 32, 1)),
        ("llvm -mtriple=armv7l-linux-gnueabihf -mcpu=cortex-a53", VectorUnit(4, 16, 1)),
        ("llvm -mtriple=armv7-linux-gnueabihf -mcpu=cortex-a7", VectorUnit(4, 16, 1)),
        ("llvm -mtriple=arm-linux-gnueabihf -mcpu=arm1176jzf-s", VectorUnit(4, 8, 1)),
        ("llvm -mtriple=riscv64-linux-gnu -mcpu=sifive-u74 -num-cores=4", VectorUnit(4, 8, 4)),
        ("llvm -mtriple=riscv64-linux-gnu -mcpu=sifive-x280", VectorUnit(4, 32, 1)),
    ],
)
def test_vector_unit(text: str, unit: VectorUnit) -> None:
    assert vector_unit(parse_target(text)) == unit


def test_a_target_without_triple_is_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from tvm.target import codegen

    monkeypatch.setattr(codegen, "llvm_get_system_triple", lambda: "aarch64-linux-gnu")
    assert vector_unit(Target("plain")).registers == 32


def test_every_vector_unit_has_schedules_for_every_kind_of_kernel() -> None:
    workloads = [
        Workload("conv", (32, 32, 3), (16, 16, 16), kernel=3, stride=2, activation="h_swish"),
        Workload("pointwise", (14, 14, 112), (14, 14, 672), activation="h_swish"),
        Workload("depthwise", (7, 7, 72), (7, 7, 72), kernel=5, activation="relu"),
    ]
    for text in ("-mcpu=arm1176jzf-s", "-mcpu=sifive-u74", "-mcpu=x86-64-v2", "-mcpu=cortex-a7"):
        unit = vector_unit(resolve(text))
        for workload in workloads:
            assert default_config(workload, unit) in schedule_space(workload, unit)


def test_a_gpu_has_no_vector_unit() -> None:
    with pytest.raises(TargetError, match="is a GPU, which has no vector unit"):
        vector_unit(parse_target("cuda -arch=sm_87 -mcpu=cortex-a78"))


def test_every_shipped_target_is_known_to_tvm() -> None:
    for path in data_dir("targets").glob("*.toml"):
        target = parse_target(str(path))
        assert tvm_target(target).kind.name == target.kind


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("llvm -mcpu=x86-64-v33", "x86-64-v3"),
        ("llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72x", "cortex-a72"),
        ("llvm -mtriple=aarch64-linux-gnu -mcpu=cortexa76", "cortex-a76"),
        ("llvm -mtriple=x86_64-linux-gnu -mcpu=haswel", "haswell"),
    ],
)
def test_an_unknown_cpu_is_answered_with_the_nearest(text: str, nearest: str) -> None:
    target = parse_target(text)
    with pytest.raises(TargetError) as caught:
        check_cpu(target)
    assert target.mcpu in caught.value.message
    assert nearest in caught.value.hint


def test_a_cpu_of_another_architecture_is_unknown() -> None:
    with pytest.raises(TargetError, match="'cortex-a72' for x86_64-linux-gnu"):
        tvm_target(parse_target("llvm -mtriple=x86_64-linux-gnu -mcpu=cortex-a72"))


@pytest.mark.parametrize("attribute", ["+foo", "-foo"])
def test_unknown_attributes_are_refused(attribute: str) -> None:
    target = parse_target(f"llvm -mtriple=x86_64-linux-gnu -mcpu=x86-64-v3 -mattr={attribute}")
    with pytest.raises(TargetError, match="LLVM knows no attribute"):
        check_cpu(target)


def test_an_attribute_of_another_architecture_is_named_as_such() -> None:
    target = parse_target("llvm -mtriple=x86_64-linux-gnu -mcpu=x86-64-v3 -mattr=+neon")
    with pytest.raises(TargetError, match=r"an attribute of aarch64-linux-gnu, not of x86_64"):
        check_cpu(target)


@pytest.mark.parametrize(
    "text",
    [
        "llvm -mtriple=x86_64-linux-gnu -mcpu=x86-64-v4 -mattr=-prefer-256-bit,-avx512f",
        "llvm -mtriple=aarch64-linux-gnu -mattr=+v8.2a,+fullfp16,-sha2",
    ],
)
def test_known_attributes_pass(text: str) -> None:
    check_cpu(parse_target(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-mattr=+avx512f,-avx2 -mcpu=x86-64-v4", "'+avx512f' is undone by one that switches off"),
        ("-mcpu=x86-64-v3 -mattr=-sse", "needs sse2, which it lacks"),
        ("-mcpu=pentium", "code for pentium needs 64bit"),
        ("-mcpu=cortex-m4", "cannot be made with mclass"),
        ("-mcpu=sifive-e31", "code for sifive-e31 needs 64bit, f, d"),
        ("-mtriple=riscv64-linux-gnu -mcpu=sifive-u74 -mattr=+zvl128b", "needs v, which it lacks"),
        ("-mtriple=riscv64-linux-gnu -mcpu=sifive-u74 -mattr=+zcmp", "no attribute '+zcmp'"),
        ("-mtriple=riscv64-linux-gnu -mcpu=sifive-u74 -mabi=lp64", "mabi lp64 is not that of"),
        ("-mtriple=aarch64-linux-gnu -mabi=lp64d", "mabi is an option of RISC-V"),
        ("-mtriple=aarch64-linux-gnu -mfloat-abi=hard", "mfloat-abi is an option of 32-bit ARM"),
        ("-mtriple=armv7-linux-gnueabihf -mfloat-abi=soft", "mfloat-abi soft contradicts triple"),
    ],
)
def test_what_would_end_the_process_or_make_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(TargetError) as caught:
        resolve(text)
    assert message in caught.value.message


def test_a_gpu_target_needs_a_known_architecture_and_a_host() -> None:
    for text, message, hint in (
        ("cuda", "needs the GPU's architecture", "-arch=sm_87"),
        ("cuda -arch=sm_87x", "no GPU architecture 'sm_87x'", "sm_87"),
        ("cuda -arch=nonsense", "no GPU architecture 'nonsense'", "like sm_87"),
        ("cuda -arch=sm_87", "cuda target sm_87 names no host", ""),
        ("cuda -arch=sm_87 -mtriple=aarch64-linux-gnu -mcpu=a78", "no CPU 'a78'", "cortex-a78"),
    ):
        with pytest.raises(TargetError) as caught:
            check_cpu(parse_target(text))
        assert message in caught.value.message
        assert hint in caught.value.hint


def test_a_gpu_target_is_tvms_with_its_host() -> None:
    text = "cuda -arch=sm_87 -mtriple=aarch64-linux-gnu -mcpu=cortex-a78 -num-cores=12"
    built = tvm_target(parse_target(text))
    assert (built.kind.name, str(built.attrs["arch"])) == ("cuda", "sm_87")
    assert str(built.host.attrs["mcpu"]) == "cortex-a78"


TRIPLES = [
    *("nonsense", "nonsense-a-b", "armfoo-linux", "aarch64zzz", "x86_64foo", "riscv64gc-linux"),
    *("-linux-gnu", "linux", "x86-64", "X86_64-linux", "wasm32", "powerpc", "armv99", "i986"),
    *(
        "x86_64-windows-msvc",
        "arm64-apple-darwin",
        "riscv32",
        "i686-x",
        "arm64-a-b-c-d",
        "armv7a-x",
    ),
    *("x86_64-linux-gnu-x", "aarch64-linux-", "aarch64--linux-gnu", "arm-linux-gnu"),
    *("x86_64", "aarch64-linux-gnu", "arm64-unknown-linux-musl", "armv8l", "armv7a-linux-gnueabi"),
    *("armv7l-linux-androideabi", "amd64-pc-linux-gnu"),
]
ASK = """
import json, sys
from ofatvm.compiler.isa import vector_unit
from ofatvm.errors import TargetError
from ofatvm.target import Target
answers = {}
for triple in json.loads(sys.argv[1]):
    try:
        vector_unit(Target("t", mtriple=triple))
        answers[triple] = ""
    except TargetError as error:
        answers[triple] = error.message
print(json.dumps(answers))
"""


def test_no_triple_ends_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(TRIPLES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout)
    assert [triple for triple in TRIPLES if not answers[triple]] == TRIPLES[-7:]
    assert all(repr(triple) in answers[triple] for triple in TRIPLES[:-7])


def test_the_host_is_this_machine() -> None:
    host = host_target()
    assert host.num_cores == host.threads == len(os.sched_getaffinity(0))
    assert host_target(threads=1).threads == 1
    assert host_target(threads=1).fingerprint == host.fingerprint
    assert vector_unit(host).threads == host.threads
    for name in host.family:
        assert vector_unit(parse_target(name)).lanes <= vector_unit(host).lanes


@x86_only
@pytest.mark.parametrize(
    ("text", "triple"),
    [
        ("llvm -mcpu=cortex-a72", "aarch64-linux-gnu"),
        ("llvm -mcpu=sifive-u74", "riscv64-linux-gnu"),
        ("llvm -mcpu=cortex-a7", "armv7-linux-gnueabihf"),
        ("llvm -mcpu=haswell", ""),
        ("llvm", ""),
        ("llvm -mtriple=arm-linux-gnueabihf -mcpu=cortex-a72", "armv7-linux-gnueabihf"),
    ],
)
def test_a_cpu_of_one_other_architecture_brings_its_triple(text: str, triple: str) -> None:
    assert resolve(text).mtriple == triple


@x86_only
@pytest.mark.parametrize(
    ("cpu", "flags", "name", "family"),
    [
        ("znver4", AVX512_FLAGS, "x86-64-v4", ["x86-64-v3"]),  # lacks znver4's other AVX-512
        ("skylake-avx512", AVX512_FLAGS, "skylake-avx512", ["x86-64-v4", "x86-64-v3"]),
        ("skylake-avx512", ["avx", "avx2", "bmi2", "f16c", "fma"], "x86-64-v3", []),
        ("skylake-avx512", ["sse2"], "x86-64", []),
        ("haswell", ["avx", "avx2", "bmi2", "f16c", "fma"], "haswell", ["x86-64-v3"]),
        ("x86-64", AVX512_FLAGS, "x86-64-v4", ["x86-64-v3"]),  # LLVM is older than the CPU
        ("skylake-avx512", [], "skylake-avx512", ["x86-64-v4", "x86-64-v3"]),  # no word of it
    ],
)
def test_the_host_is_no_more_than_its_cpu_says(
    monkeypatch: pytest.MonkeyPatch, cpu: str, flags: list[str], name: str, family: list[str]
) -> None:
    from tvm.target import codegen

    monkeypatch.setattr(codegen, "llvm_get_system_cpu", lambda: cpu)
    monkeypatch.setattr(isa, "_cpu_flags", lambda: frozenset(flags))
    host = host_target()
    assert (host.name, host.mcpu, list(host.family)) == (name, name, family)
    assert ("-prefer-256-bit" in host.mattr) == ("x86-64-v4" in (name, *family))
    check_cpu(host)


@x86_only
def test_flags_are_read_in_llvms_spelling() -> None:
    flags = isa._cpu_flags()
    assert {"sse2", "fxsr"} <= flags
    assert not any("_" in flag for flag in flags)


@x86_only
@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("llvm -mcpu=znver3", ("x86-64-v3",)),
        ("llvm -mcpu=skylake", ("x86-64-v3",)),
        ("llvm -mcpu=alderlake -num-cores=4", ("x86-64-v3",)),
        ("llvm -mcpu=skylake-avx512", ("x86-64-v4", "x86-64-v3")),
        ("llvm -mcpu=x86-64-v4", ("x86-64-v3",)),
        ("llvm -mcpu=znver4 -mattr=-avx512vl", ("x86-64-v3",)),
        ("llvm -mcpu=x86-64-v3", ()),
        ("llvm -mcpu=znver3 -mattr=-avx2", ()),
        ("llvm -mcpu=core2", ()),
        ("llvm", ()),
        ("llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72", ()),
    ],
)
def test_a_cpu_belongs_to_the_levels_it_does(text: str, family: tuple[str, ...]) -> None:
    assert with_family(parse_target(text)).family == family


@x86_only
def test_a_family_that_is_given_stays_and_a_renamed_level_belongs_to_the_level() -> None:
    given = Target("mine", mcpu="znver3", family=("other",))
    assert with_family(given) == given
    assert with_family(Target("mine", mcpu="x86-64-v3")).family == ("x86-64-v3",)
    assert with_family(Target("mine", mcpu="znver3")).family == ("znver3", "x86-64-v3")


def test_a_board_belongs_to_its_cpu_in_the_cpus_own_architecture() -> None:
    board = Target("my-board", mtriple="aarch64-linux-gnu", mcpu="cortex-a72")
    assert with_family(board).family == ("cortex-a72",)
    assert with_family(replace(board, mtriple="armv7-linux-gnueabihf")).family == ()

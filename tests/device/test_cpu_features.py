"""CPU features by the names that the kernel gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ofatvm.device.cpu_features import host_features, needed_features
from ofatvm.target import Target


@pytest.mark.parametrize(
    ("target", "needed", "unneeded"),
    [
        (Target(name="v2", mcpu="x86-64-v2"), {"sse4_2", "popcnt"}, {"avx"}),
        (Target(name="v3", mcpu="x86-64-v3"), {"avx2", "fma", "bmi1", "abm"}, {"avx512f"}),
        (Target(name="v4", mcpu="x86-64-v4"), {"avx2", "avx512f", "avx512vl"}, {"avx512_vnni"}),
        (Target(name="less", mcpu="x86-64-v3", mattr=("-avx2",)), {"avx"}, {"avx2"}),
        (Target(name="more", mcpu="x86-64-v2", mattr=("+avx2",)), {"avx", "avx2"}, {"fma"}),
        (
            Target(name="a72", mtriple="aarch64-linux-gnu", mcpu="cortex-a72"),
            {"asimd"},
            {"asimddp", "sve"},
        ),
        (
            Target(name="a7", mtriple="armv7-linux-gnueabihf", mcpu="cortex-a7"),
            {"neon", "vfpv4"},
            {"asimd"},
        ),
        (
            Target(name="x60", mtriple="riscv64-linux-gnu", mcpu="spacemit-x60", mabi="lp64d"),
            {"d", "v"},
            {"zba"},
        ),
        (
            Target(name="u74", mtriple="riscv64-linux-gnu", mcpu="sifive-u74", mabi="lp64d"),
            {"f", "d", "c"},
            {"v"},
        ),
    ],
)
def test_what_a_target_needs(target: Target, needed: set[str], unneeded: set[str]) -> None:
    found = set(needed_features(target))
    assert needed <= found
    assert not unneeded & found


def test_this_machine_has_what_its_own_target_needs() -> None:
    from ofatvm.compiler.isa import host_target

    assert set(needed_features(host_target())) <= host_features()


def test_only_what_every_cpu_has_counts(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(
        "processor: 0\nFeatures\t: asimd crc32 sve\n\nprocessor: 1\nFeatures\t: asimd\n"
    )
    assert host_features(path) == {"asimd"}
    path.write_text("isa\t: rv64imafdcv_zicsr_zba\n\nisa\t: rv64imafdcv_zicsr\nhart isa\t: rv64i\n")
    assert host_features(path) == {*"imafdcv", "zicsr"}
    path.write_text("isa\t: rv64gc\n")
    assert host_features(path) == set("imafdc")
    path.write_text("nothing of use")
    assert host_features(path) == frozenset()
    assert host_features(tmp_path / "none") == frozenset()

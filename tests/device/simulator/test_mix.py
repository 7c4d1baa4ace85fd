from __future__ import annotations

import pytest

from ofatvm.device.simulator.mix import classify


@pytest.mark.parametrize(
    ("line", "classes"),
    [
        ("vfmadd231ps\t%ymm1, %ymm0, %ymm15     # ymm15 = (ymm0 * ymm1) + ymm15", ["multiply-add"]),
        ("vfmadd231ps\t64(%rsp,%rcx), %ymm7, %ymm14", ["load", "multiply-add"]),
        ("vbroadcastss\t-5889(%rip), %ymm14", ["load"]),
        ("vmovups\t(%r11), %ymm14", ["load"]),
        ("vmovups\t%ymm4, -128(%rsp)", ["store"]),
        ("vmaxps\t%ymm4, %ymm0, %ymm0", ["float"]),
        ("vaddps\t-9024(%rdx,%rax), %ymm0, %ymm2", ["load", "float"]),
        ("leaq\t8(%rax), %rcx", ["other"]),
        ("addq\t$64, %r11", ["other"]),
        ("jne\t-173", ["branch"]),
        ("retq", ["branch"]),
    ],
)
def test_x86(line: str, classes: list[str]) -> None:
    assert classify(line, "x86_64-linux-gnu") == classes


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("fmla\tv1.4s, v2.4s, v3.s[0]", "multiply-add"),
        ("fmadd\ts0, s1, s2, s3", "multiply-add"),
        ("ldp\tq0, q1, [x2, #-32]", "load"),
        ("ld1r\t{ v1.4s }, [x1]", "load"),
        ("str\tq4, [sp, #16]", "store"),
        ("stp\tx29, x30, [sp, #-16]!", "store"),
        ("fadd\tv1.4s, v2.4s, v3.4s", "float"),
        ("fmaxnm\tv1.4s, v2.4s, v3.4s", "float"),
        ("add\tx1, x1, #64", "other"),
        ("b.ne\t#-24", "branch"),
        ("cbz\tx1, #8", "branch"),
        ("ret", "branch"),
        ("bic\tx1, x1, #1", "other"),
    ],
)
def test_aarch64(line: str, name: str) -> None:
    assert classify(line, "aarch64-linux-gnu") == [name]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("vmla.f32\tq8, q9, q10", "multiply-add"),
        ("vld1.32\t{d20, d21}, [r1]!", "load"),
        ("ldr\tr12, [sp, #40]", "load"),
        ("pop\t{r4, pc}", "load"),
        ("vst1.32\t{d16, d17}, [r1]", "store"),
        ("push\t{r4, lr}", "store"),
        ("vadd.f32\tq9, q11, q9", "float"),
        ("vmov.i32\tq8, #0x0", "other"),
        ("bne\t#-48", "branch"),
    ],
)
def test_arm(line: str, name: str) -> None:
    assert classify(line, "armv7-linux-gnueabihf") == [name]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("fmadd.s\tfa0, fa1, fa2, fa3", "multiply-add"),
        ("flw\tfa0, 0(a1)", "load"),
        ("fsw\tfa0, 0(a1)", "store"),
        ("bnez\ta0, -24", "branch"),
        ("addi\ta0, a0, 4", "other"),
    ],
)
def test_riscv(line: str, name: str) -> None:
    assert classify(line, "riscv64-linux-gnu") == [name]

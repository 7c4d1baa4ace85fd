from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofatvm.compiler.triple import ARCHITECTURES, parse_triple
from ofatvm.errors import TargetError


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("aarch64", "aarch64-linux-gnu"),
        ("aarch64-linux", "aarch64-linux-gnu"),
        ("arm64-unknown-linux-gnu", "aarch64-linux-gnu"),
        ("aarch64-linux-musl", "aarch64-linux-musl"),
        ("arm64-linux-android", "aarch64-linux-android"),
        ("x86_64-conda-linux-gnu", "x86_64-linux-gnu"),
        ("amd64-pc-linux-gnu", "x86_64-linux-gnu"),
        ("riscv64-unknown-linux-gnu", "riscv64-linux-gnu"),
        ("armv7", "armv7-linux-gnueabihf"),
        ("armv7l-linux-gnueabihf", "armv7-linux-gnueabihf"),
        ("armv7a-unknown-linux-gnueabi", "armv7-linux-gnueabi"),
        ("arm-linux-androideabi", "arm-linux-androideabi"),
    ],
)
def test_a_triple_has_one_spelling(text: str, spelled: str) -> None:
    assert str(parse_triple(text)) == spelled
    assert parse_triple(spelled) == parse_triple(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("aarch46-linux-gnu", "aarch64-linux-gnu"),
        ("risc64-linux-gnu", "riscv64-linux-gnu"),
        ("x86_64-windows-msvc", "x86_64-linux-gnu"),
        ("aarch64-none-elf", "aarch64-linux-gnu"),
        ("arm-none-eabi", "arm-linux-gnueabihf"),
        ("qqq", "triples are x86_64-linux-gnu"),
    ],
)
def test_another_system_is_answered_with_the_nearest_triple(text: str, hint: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_triple(text)
    assert repr(text) in caught.value.message
    assert hint in caught.value.hint


WORDS = st.sampled_from([*ARCHITECTURES, "linux", "gnu", "unknown", "gnueabihf", "elf", "", "x"])


@given(st.lists(WORDS, max_size=5).map("-".join) | st.text(max_size=20))
def test_any_triple_is_one_of_linux_or_an_error_of_ours(text: str) -> None:
    try:
        triple = parse_triple(text)
    except TargetError:
        return
    assert parse_triple(str(triple)) == triple
    assert "-linux-" in str(triple)

"""Names of any script, in one line and in Markdown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofatvm.text import counted, is_line, literal, one_line

NAMES = (
    "猫\u3000と犬",
    "قطة",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "cafe\u0301",
    "👨\u200d👩\u200d👧 🏴\U000e0067\U000e0062",
    'the "big" one, it\'s',
    "a|b",
    "C:\\cats\\",
    "*bold* _under_ `code` [link](x) <b>&amp;",
    ".hidden",
    "con.",
    "no\u00a0break",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_script_are_lines(name):
    assert is_line(name)
    assert one_line(name).split() == name.split()
    assert len(name.splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["", " \u3000", "a\nb", "\x1b[31m", "a\x85b", "a\u2028b", "\u202etxt.exe", "\udcff"]
)
def test_control_characters_and_line_ends_are_none(text):
    assert not is_line(text)
    assert text.isspace() or not text or is_line(f"{one_line(text)}.")


def test_what_markdown_would_read_is_escaped():
    assert literal("a|b") == "a\\|b"
    assert literal("C:\\x|") == "C:\\\\x\\|"
    assert literal("*a* `b` [c](d) <i> &lt;") == r"\*a\* \`b\` \[c\](d) &lt;i> &amp;lt;"
    assert literal("_a_ small_28") == r"\_a\_ small_28"
    assert literal("CC BY 4.0, https://example.org/a_b") == "CC BY 4.0, https://example.org/a_b"


@given(st.text())
def test_any_text_becomes_one_line(text):
    assert len(f"{one_line(text)}.".splitlines()) == 1
    assert "\n" not in literal(text)


def test_one_is_singular() -> None:
    assert counted(1, "subnet") == "1 subnet"
    assert (counted(0, "subnet"), counted(10_000, "subnet")) == ("0 subnets", "10,000 subnets")
    assert counted(2, "class", "classes") == "2 classes"

"""What was mistyped is answered with what was probably meant, in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Ofatvm = Callable[..., Any]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("search --latencyms 3", "no option --latencyms (did you mean --latency-ms?)"),
        ("search --latency=3", "no option --latency (did you mean --latency-ms?)"),
        ("search -latency-ms 3", "no option -latency-ms (did you mean --latency-ms?)"),
        ("search --nonsense", "no option --nonsense (see ofatvm search --help)"),
        ("search -j", "no option -j (see ofatvm search --help)"),
        ("--verison", "no option --verison (did you mean --version?)"),
        ("serach --target host", "no command serach (did you mean search?)"),
        ("xyzzy", "no command xyzzy (see ofatvm --help)"),
        ("devices lst", "no command lst (did you mean list?)"),
        ("search --ir relays", "'relays' is not one of 'relax', 'relay' (did you mean relay?)"),
        ("targets chek", "(did you mean check?)"),
        ("search --device simualted", "no device 'simualted' (did you mean simulated?)"),
        ("search --device pdp11", "(it is auto, local, simulated or rpc://HOST:PORT/KEY)"),
        ("search -mcpuu=cortex-a72", "no option -mcpuu (did you mean -mcpu= behind --target?)"),
        ("search --mcpu=cortex-a72", "no option --mcpu (did you mean -mcpu= behind --target?)"),
        ("search --target llvm -mcpuu=cortex-a72", "(did you mean -mcpu=?)"),
        ("search --target llvm -mattrs=+crc", "(did you mean -mattr=?)"),
        ("search --target=llvm -mcpu=cortex-a72 -num-core=4", "(did you mean -num-cores=?)"),
        ("search --target cuda -arhc=sm_87", "(did you mean -arch=?)"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest(
    ofatvm: Ofatvm, words: str, line: str
) -> None:
    answer = ofatvm(*words.split())
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert answer.err.endswith(f"{line}\n")
    assert len(answer.err.splitlines()) == 1
    assert ofatvm(*words.split(), "--json").json["error"]["kind"].endswith("Error")

"""Somebody's AutoTVM logs: each trial is taken once, and what is no log is refused in one line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ofatvm.errors import MissingInputError, RecordError
from ofatvm.relay.task import task_of
from ofatvm.tuning.relay_import import import_log, read_theirs
from ofatvm.tuning.relay_records import LOG, read_log
from tests.tuning.test_relay_records import TARGET, WORKLOAD, line, write


def test_a_log_is_imported_once(tmp_path: Path) -> None:
    foreign = line(input=["llvm", "dense_pack.x86", [], {}])
    shared, theirs_alone = line(), line(2e-5)
    rewritten = json.dumps(json.loads(theirs_alone), indent=None, separators=(",", ":")).encode()
    source = write(
        tmp_path / "theirs", shared, foreign, b"nonsense", theirs_alone, theirs_alone, rewritten
    )
    own = write(tmp_path / "own", shared)
    for taken in (1, 0):
        theirs = read_theirs(source, TARGET)
        assert (len(theirs.lines), theirs.left, theirs.others) == (2, 2, 0)
        assert import_log(theirs, own) == taken
        assert [trial.seconds for trial in read_log(own)[0]] == [1e-5, 2e-5]
    assert import_log(read_theirs(own, TARGET), own) == 0


@pytest.mark.parametrize(
    "text",
    [
        "llvm -keys=arm_cpu,cpu -mcpu=cortex-a72",
        "llvm",
        "cuda -arch=sm_87",
        "llvm -mcpu=znver3 -mattr=+avx512f",
        "",
    ],
)
def test_trials_of_another_cpu_are_not_taken(tmp_path: Path, text: str) -> None:
    template, arguments = task_of(WORKLOAD)
    source = write(tmp_path / "theirs", line(), line(input=[text, template, arguments, {}]))
    theirs = read_theirs(source, TARGET)
    assert (len(theirs.lines), theirs.left, theirs.others) == (1, 0, 1)
    assert import_log(theirs, tmp_path / LOG) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"dear diary\n", r"notes\.txt holds no record of AutoTVM: it is other text"),
        (b"", "it is empty"),
        (gzip.compress(line()), "it is compressed by gzip"),
        (b"\x7fELF\2\1\1\0", "it is a binary file"),
        (
            b'[0,[[[["GetSBlock",[],["a","main"],["b0"]]]]]]\n',
            "it is a file of MetaSchedule's tuning",
        ),
        (b'["139", "Cl0AAA=="]\n', "it is a file of MetaSchedule's workloads"),
        (b'{"i": [["[\\"abc\\"]"]], "r": [[0.1], 0, 1, 1], "v": "v0.6"}\n', "auto_scheduler"),
        (b'{"workload":"a","config":[2],"seconds":[0.1],"crc":"14702c50"}\n', "Relax road"),
        (line(input=["cuda", *task_of(WORKLOAD), {}]), "holds no trial for toy: 1 are of other"),
        (line(input=["llvm", "dense_pack.x86", [], {}]), "holds no trial for toy: 0 are of other"),
    ],
)
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    source = tmp_path / "notes.txt"
    source.write_bytes(content)
    with pytest.raises(RecordError, match=said) as caught:
        read_theirs(source, TARGET)
    assert caught.value.hint


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is a folder, not a log"):
        read_theirs(tmp_path, TARGET)
    with pytest.raises(MissingInputError, match="no AutoTVM log"):
        read_theirs(tmp_path / "missing", TARGET)


@pytest.mark.relay
def test_a_failed_import_leaves_nothing(ofatvm: Callable[..., Any], tmp_path: Path) -> None:
    source = tmp_path / "theirs.log"
    source.write_text("dear diary\n")
    logs, work = tmp_path / "logs", tmp_path / "work"
    answer = ofatvm(
        *("tune", "--ir", "relay", "--target", "llvm -mcpu=cortex-a72", "--import-log", source),
        *("--tuning-logs", logs, "--workspace", work),
    )
    assert answer.code == 2
    assert "it is other text" in answer.err.splitlines()[-1]
    assert not logs.exists()

"""The author's file of known failures: what it covers, what it says when malformed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refmoe.expected import Entry, excuse, read, standings
from refmoe.judge import Judgement
from refmoe.plan import Cell
from refmoe.verdict import Kind, Verdict
from refmoe.verify import Record

LINE = "moe model=gpt-oss-120b T=65 H=64 I=32 E=8 k=4 regime=heavy seed=3"


def record(kind: Kind = Kind.WRONG, line: str = LINE, port: str = "mine") -> Record:
    cell = Cell(line.split()[0], "gpt-oss-120b", "heavy")
    return Record(port, cell, line, (), Judgement(Verdict(kind)), 0.1)


def entries(tmp_path: Path, *tables: str) -> list[Entry]:
    reason = 'reason = "late, https://example.org/my/issues/7"'
    file = tmp_path / "mine.toml"
    file.write_text("\n".join(f"[[expected]]\n{reason}\n{table}" for table in tables))
    return read(file)


MET = [
    'op = "moe"', 'model = "gpt-oss-*"', "T = 65", "T = { min = 65 }",
    "T = { min = 1, max = 65 }", 'regime = ["exact", "heavy"]', 'case = "* T=65 *"',
    'port = "m?ne"', "routing.bias = \"logits\"", "activation.limit = 7.0",
    'weights = "mxfp4"', "expert_bias = true", "I = 32", 'kind = "WRONG"\nseed = 3',
]  # fmt: skip
UNMET = [
    'op = "route"', 'model = "mixtral-*"', "T = 64", "T = { max = 64 }",
    'regime = ["exact"]', 'op = "moe"\nT = 4', "activation.limit = 8",
    'format = "*"', "expert_bias = 1", 'kind = "CRASHED"\nop = "moe"',
    'op = { min = 1 }',
]  # fmt: skip


@pytest.mark.parametrize("table", MET)
def test_expected_entry_excuses_what_meets_its_conditions(
    tmp_path: Path, table: str
) -> None:
    """The case's own words count, then those of its layer."""
    (entry,) = entries(tmp_path, table)
    assert excuse([entry], record()) is entry


@pytest.mark.parametrize("table", UNMET)
def test_expected_entry_excuses_nothing_else(tmp_path: Path, table: str) -> None:
    assert excuse(entries(tmp_path, table), record()) is None


def test_expected_entry_excuses_no_verdict_that_is_not_a_failure(
    tmp_path: Path,
) -> None:
    (entry,) = entries(tmp_path, 'op = "moe"')
    assert not entry.excuses(record(Kind.UNDECLARED))
    assert not entry.excuses(record(Kind.WITHIN))


def test_expected_standings_tell_failing_stale_and_unused_apart(
    tmp_path: Path,
) -> None:
    """Catches the file that goes on excusing what was mended long ago."""
    found = entries(tmp_path, "T = 65", "T = 17", "T = 4", "T = 5")
    other = LINE.replace("T=65", "T=17")
    refused = record(Kind.REFUSED, LINE.replace("T=65", "T=5"))
    records = [record(), record(Kind.WITHIN), record(Kind.WITHIN, other), refused]
    result = standings(found, records)
    assert [(s.failed, s.passed, s.stale, s.used) for s in result] == [
        (1, 1, False, True), (0, 1, True, True), (0, 0, False, False),
        (0, 0, False, False),
    ]  # fmt: skip


LINKED = 'reason = "https://x.org/1"\n'
MALFORMED: list[Any] = [
    ("[[expected]\n", "mine.toml: no valid TOML: .*line 1"),
    ("[[expect]]\n", "mine.toml: 'expect' is unknown; write entries as"),
    ("expected = 3\n", r"'expected' is no list; write entries as \[\[expected\]\]"),
    ('[[expected]]\nop = "moe"\n', "mine.toml:1: reason: say why, with a link"),
    (
        f'[[expected]]\n{LINKED}op = "moe"\n[[expected]]\nop = "moe"\nreason = "bad"\n',
        "mine.toml:6: reason: say why, with a link",
    ),
    (f"[[expected]]\n{LINKED}", "mine.toml:1: expected: no condition; say which"),
    (
        f'[[expected]]\n{LINKED}modle = "x"\n',
        "mine.toml:3: modle: no key of a case; did you mean 'model'?",
    ),
    (
        f"[[expected]]\n{LINKED}T = {{ least = 3 }}\n",
        "mine.toml:3: T: {'least': 3} is no condition",
    ),
    (f"[[expected]]\n{LINKED}T = []\n", r"mine.toml:3: T: \[\] is no condition"),
    (
        f'[[expected]]\n{LINKED}op = "moe"\nkind = "BAD"\n',
        "mine.toml:4: kind: 'BAD' is not one of .*, WRONG, CRASHED, HUNG",
    ),
    *(
        (f"[[expected]]\n{LINKED}{line}\n", f"mine.toml:3: {said}")
        for line, said in (
            ('op = "rout"', "op: 'rout' is none; did you mean 'route'"),
            ('op = ["moe", "mo"]', "op: 'mo' is none; did you mean 'moe'"),
            ('model = "gpt-oss-120"', "model: .* did you mean 'gpt-oss-120b'"),
            ('model = "mixtrl-*"', "model: 'mixtrl-[*]' is none; "),
            ('format = "mxfp"', "format: 'mxfp' is none; did you mean 'mxfp"),
            ('regime = "hevy"', "regime: 'hevy' is none; did you mean 'heavy'"),
            ('dtype = "float32"', "dtype: 'float32' is none; there are fp64, fp32"),
            ('routing.score = "softmx"', "routing.score: .*did you mean 'softmax'"),
        )
    ),
]


@pytest.mark.parametrize("text, message", MALFORMED)
def test_expected_file_that_is_malformed_names_line_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read(file)


def test_expected_file_without_entries_is_empty(tmp_path: Path) -> None:
    assert entries(tmp_path) == []

"""The plain types at the bottom."""

from __future__ import annotations

import subprocess
import sys

from refmoe.verdict import MEANING, Finding, Kind, Outcome, Verdict, severest


def test_verdict_every_kind_has_a_meaning() -> None:
    assert list(MEANING) == list(Kind)
    assert len(set(MEANING.values())) == len(Kind)


def test_verdict_only_wrong_crashed_and_hung_fail() -> None:
    assert {kind for kind in Kind if kind.failed} == {
        Kind.WRONG, Kind.CRASHED, Kind.HUNG
    }  # fmt: skip


def test_verdict_absent_kernels_are_no_green_pass() -> None:
    assert {kind for kind in Kind if not kind.executed} == {
        Kind.MISSING, Kind.UNSUPPORTED, Kind.REFUSED
    }  # fmt: skip
    assert not any(kind.executed and kind.failed for kind in (Kind.REFUSED,))


def test_verdict_failures_are_the_severest() -> None:
    order = sorted(Kind, key=lambda kind: kind.severity)
    assert all(kind.failed for kind in order[-3:])
    assert order[0] is Kind.BIT_EQUAL
    verdicts = (
        Verdict(Kind.WITHIN, "a"),
        Verdict(Kind.WRONG, "b"),
        Verdict(Kind.WRONG),
    )
    assert severest(verdicts).tap == "b"


def test_verdict_defaults_are_empty() -> None:
    assert Outcome("ran").outputs == {}
    assert Finding("case", "op", "port", Verdict(Kind.WRONG)).first is None


def test_verdict_imports_neither_torch_nor_the_suite() -> None:
    """The types can be read by tools that have no torch."""
    script = (
        "import sys, importlib.util as u;"
        "s = u.spec_from_file_location('verdict', 'refmoe/verdict.py');"
        "m = u.module_from_spec(s); sys.modules['verdict'] = m;"
        "s.loader.exec_module(m);"
        "print([n for n in sys.modules if n.split('.')[0] in ('torch', 'refmoe')])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"

"""JUnit XML: what a CI server counts as failed, skipped and passed."""

from __future__ import annotations

from xml.etree import ElementTree as xml

from refmoe.expected import Entry
from refmoe.judge import Judgement
from refmoe.plan import Cell
from refmoe.report.about import About
from refmoe.report.junit import junit
from refmoe.report.run import Run
from refmoe.verdict import Kind, Verdict
from refmoe.verify import Record

PORT = About("my.port", ("moe", "permute"), "Numerics()", True, hardware="cpu")


def record(kind: Kind, op: str = "moe", detail: str = "") -> Record:
    line = "moe model=gpt-oss-120b T=4 H=64 I=32 E=8 k=4 regime=randn seed=0"
    if op == "permute":
        line = "permute T=4 E=8 k=4 regime=randn seed=0"
    judgement = Judgement(Verdict(kind, detail=detail))
    return Record("my.port", Cell(op, "-", "randn"), line, (), judgement, 0.25)


def test_junit_sorts_verdicts_into_failures_skips_and_passes() -> None:
    known = Entry("https://x.org/1", {"op": "permute"}, (Kind.WRONG,), "k.toml:1")
    records = [
        record(Kind.WRONG, detail="<b> & \x00\x1b"), record(Kind.WRONG, "permute"),
        record(Kind.REFUSED, detail="no MXFP4 here"), record(Kind.WITHIN),
        record(Kind.SUSPECT), record(Kind.HUNG),
    ]  # fmt: skip
    root = xml.fromstring(junit(Run([PORT], records, 3, 2.0, [known])))
    (suite,) = root
    assert suite.attrib == {
        "name": "my.port", "tests": "6", "failures": "2", "errors": "0",
        "skipped": "2", "time": "1.500",
    }  # fmt: skip
    cases = suite.findall("testcase")
    inner = [[child.tag for child in case] for case in cases]
    assert inner == [["failure"], ["skipped"], ["skipped"], [], ["system-out"],
                     ["failure"]]  # fmt: skip
    assert cases[0].attrib["classname"] == "my.port.moe"
    failure, expected, refused = cases[0][0], cases[1][0], cases[2][0]
    assert failure.attrib == {"type": "WRONG", "message": "<b> & \ufffd\ufffd"}
    assert "reproduce: refmoe repro" in (failure.text or "")
    assert expected.attrib["message"] == "expected: https://x.org/1"
    assert refused.attrib["message"] == "REFUSED: no MXFP4 here"


def test_junit_of_a_run_without_cases_is_a_suite_without_tests() -> None:
    (suite,) = xml.fromstring(junit(Run([PORT], [])))
    assert (suite.get("tests"), suite.get("failures")) == ("0", "0")

"""What findings, tables and certificates say: their wording is part of the product."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from refmoe.expected import Entry
from refmoe.judge import Judgement
from refmoe.loading import port_of
from refmoe.plan import Cell
from refmoe.report import terminal
from refmoe.report.about import about
from refmoe.report.bits import hexadecimal, interval
from refmoe.report.certificate import certificate
from refmoe.report.run import Run
from refmoe.report.table import condensed, rows
from refmoe.report.text import described, lines
from refmoe.verdict import Finding, Kind, Verdict
from refmoe.verify import Record

INF = math.inf


@pytest.mark.parametrize(
    "value, dtype, want",
    [
        (1.203125, "bf16", "0x3f9a"), (-0.0, "bf16", "0x8000"),
        (1.0, "fp32", "0x3f800000"), (1.0, "fp16", "0x3c00"), (INF, "bf16", "0x7f80"),
        (1.0, "fp64", "0x3ff0000000000000"), (-2.0, "fp64", "0xc000000000000000"),
        (17, "uint8", "0x11"), (1.203, "bf16", "1.203"), (1e39, "fp32", "1e+39"),
    ],
)  # fmt: skip
def test_bits_are_those_of_the_type(value: float, dtype: str, want: str) -> None:
    assert hexadecimal(value, dtype) == want


@pytest.mark.parametrize(
    "low, high, want",
    [
        (1.0, 1.0078125, "0x3f80..0x3f81"),
        (1.0, 1.0078124, "0x3f80"),
        (1.0000001, 1.0078125, "0x3f81"),
        (-1.0078125, -1.0, "0xbf81..0xbf80"),
        (-1.0078124, -1.0, "0xbf80"),
        (-1e-50, 1e-50, "0x8000..0x0000"),
        (1e-45, 1.0, "0x0001..0x3f80"),
        (-1.0, -1e-45, "0xbf80..0x8001"),
        (-INF, INF, "0xff80..0x7f80"),
    ],
)
def test_interval_holds_only_values_inside(low: float, high: float, want: str) -> None:
    assert interval(low, high, "bf16") == want


WRONG = Verdict(
    Kind.WRONG, "out", (0, 17), 1.203125, 1.1328125, 1.1484375, 7.4, 0.1, "bf16"
)
FIRST = Verdict(Kind.WRONG, "gate_up", (2, 5), 2.0, 1.0, 1.0, 2.0**24, dtype="fp32")
CASE = "moe T=1 H=32 I=32 E=2 k=1 regime=exact seed=0"


def test_finding_shows_bits_interval_ratio_stage_and_replay() -> None:
    assert lines(Finding(CASE, "moe", "mypkg.port", WRONG, FIRST, cause="a cause")) == [
        "WRONG moe[mypkg.port]  out[0,17] = 0x3f9a (1.203125)  want 0x3f91..0x3f93  "
        "error 7.4x bound",
        "  first divergence: gate_up[2,5] = 0x40000000 (2)  want 0x3f800000 (1) "
        "exactly",
        "  cause: a cause",
        f"  reproduce: refmoe repro '{CASE}' mypkg.port",
    ]


def test_finding_never_rounds_what_came() -> None:
    """Catches bits of another number: launches add up to what is none of the type."""
    verdict = replace(WRONG, got=1.203)
    assert described(verdict).startswith("out[0,17] = 1.203 (no bf16)  want 0x3f91..")


def test_undeclared_findings_are_one_for_each_arithmetic() -> None:
    """Catches a page of lines that all say the same, and what to do in none of them."""
    fitting = [("one", "two")] * 3 + [("two",)] * 2
    many = [
        replace(
            record(Kind.UNDECLARED, port=port),
            judgement=Judgement(
                Verdict(Kind.UNDECLARED, "out", detail=f"fits {names[0]}; where"),
                fitting=names,
            ),
        )
        for port in ("mine", "other")
        for names in (fitting if port == "mine" else fitting[-1:])
    ]
    text = printed(terminal.show, Run((), [*many, record(Kind.WRONG, 2.0)]))
    shown = [line for line in text.splitlines() if "reproduce" not in line]
    assert [line.split("  out")[0] for line in shown] == [
        "WRONG moe[mine]", "UNDECLARED moe[mine]", "  and 2 cases more, alike",
        "UNDECLARED moe[mine]", "  and 1 case more, alike", "UNDECLARED moe[other]",
        "mine: declare two and 5 of these 5 UNDECLARED cases pass",
        "other: declare two and 1 of these 1 UNDECLARED case pass",
    ]  # fmt: skip


def test_finding_of_a_deviation_says_so() -> None:
    found = lines(Finding(CASE, "moe", "peer", WRONG, deviation=True))
    assert found[0].startswith("DEVIATION moe[peer]  out[0,17]")


def test_finding_of_a_crash_shows_the_exception_and_its_frames() -> None:
    log = (
        "Traceback (most recent call last):\n"
        '  File "port.py", line 3, in moe\n'
        "    launch()\n"
        "RuntimeError: CUDA error: an illegal memory access\n"
        " * hint"
    )
    verdict = Verdict(Kind.CRASHED, detail=log)
    found = lines(Finding(CASE, "moe", "mine", verdict, log=log))
    assert (
        found[0]
        == "CRASHED moe[mine]  RuntimeError: CUDA error: an illegal memory access"
    )
    assert '      File "port.py", line 3, in moe' in found
    assert found[-1] == f"  reproduce: refmoe repro '{CASE}' mine"


DESCRIBED = [
    (
        Verdict(Kind.WRONG, "ids", (3, 1), 5, 2, 2, dtype="int64"),
        "ids[3,1] = 5  want 2",
    ),
    (
        Verdict(Kind.WRONG, "ids", (3, 1), 5, detail="token 3 chose [5, 1]"),
        "ids[3,1] = 5  token 3 chose [5, 1]",
    ),
    (Verdict(Kind.WRONG, detail="out is a list"), "out is a list"),
    (
        Verdict(Kind.WRONG, "out", (0,), math.nan, 1.0, 1.0, INF, dtype="bf16"),
        "out[0] = 0x7fc0 (nan)  want 0x3f80 (1) exactly",
    ),
    (
        Verdict(Kind.WRONG, "out", (0,), 1.0, math.nan, math.nan, INF, dtype="bf16"),
        "out[0] = 0x3f80 (1)  want 0x7fc0 (nan) exactly",
    ),
    (Verdict(Kind.BIT_EQUAL, "out", ratio=0.0), "out"),
]


@pytest.mark.parametrize("verdict, want", DESCRIBED, ids=[w for _, w in DESCRIBED])
def test_verdict_is_described_in_one_line(verdict: Verdict, want: str) -> None:
    assert described(verdict) == want


def record(
    kind: Kind, ratio: float = 0.0, *, port: str = "mine", of: str = "m"
) -> Record:
    verdict = Verdict(kind, "out", (0, 1), 2.0, 1.0, 1.5, ratio, ratio / 4, "bf16")
    ran = (verdict,) if kind.executed else ()
    cell = Cell("moe", of, "randn")
    return Record(port, cell, CASE, (), Judgement(verdict, ran), 0.1)


RECORDS = [
    record(Kind.BIT_EQUAL), record(Kind.WITHIN, 0.5), record(Kind.WITHIN, 0.25),
    record(Kind.WRONG, 3.0), record(Kind.REFUSED), record(Kind.UNSUPPORTED, of="other"),
    record(Kind.SUSPECT, 0.9, port="second"), record(Kind.CRASHED, port="second"),
]  # fmt: skip


def printed(show: Any, *arguments: Any) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=200), *arguments)
    return stream.getvalue()


def test_table_rows_add_up_by_port_and_cell() -> None:
    first, other, second = rows(RECORDS)
    assert (first.port, first.cases, first.not_run) == ("mine", 5, 1)
    assert first.largest == {"out": 3.0}
    assert first.median("out") == 0.125
    assert (other.subject, other.cases, other.not_run) == ("other", 1, 1)
    assert second.port == "second"


def test_table_names_what_never_ran_and_keeps_failures_apart() -> None:
    text = printed(terminal.table, RECORDS)
    mine = next(line for line in text.splitlines() if line.startswith("moe  m "))
    assert mine.split() == [
        "moe", "m", "randn", "5", "1", "2", "1", "1", "out", "0.12,", "3"
    ]  # fmt: skip
    assert "never ran: moe of other" in text
    assert "1 crashed" in text
    assert "1 suspect" in text


def test_table_adds_up_the_regimes_that_merely_passed() -> None:
    """Catches the failing regime that disappears among twenty good ones."""
    kinds = {"a": Kind.WITHIN, "b": Kind.WRONG, "c": Kind.BIT_EQUAL, "d": Kind.SUSPECT}
    found = [
        Record("p", Cell("moe", "m", regime), CASE, (), record(kind).judgement, 0.1)
        for regime, kind in kinds.items()
    ]
    shown = condensed(rows(found))
    assert [row.inputs for row in shown] == ["2 kinds", "b", "d"]
    assert [row.cases for row in shown] == [2, 1, 1]


def test_table_tells_subjects_that_never_ran_from_inputs_that_did_not() -> None:
    cells = [
        ("a", "x", Kind.WITHIN),
        ("a", "y", Kind.REFUSED),
        ("b", "x", Kind.REFUSED),
    ]
    found = [
        Record("p", Cell("moe", of, inputs), CASE, (), record(kind).judgement, 0.1)
        for of, inputs, kind in cells
    ]
    assert "never ran: moe: y; moe of b\n" in printed(terminal.table, found)


def test_table_says_why_nothing_ran() -> None:
    """Catches a port that refuses every case, and a report that keeps why to itself."""
    said = "ValueError: only sm_90\nmore"
    refused = Judgement(Verdict(Kind.REFUSED, detail=said))
    cell = Cell("moe", "m", "exact")
    found = [Record("p", cell, CASE, (), refused, 0.1, log=said)] * 3
    assert "\n  3 refused: ValueError: only sm_90\n" in printed(terminal.table, found)


KNOWN = Entry("why, https://x.org/1", {"regime": "exact"}, (Kind.WRONG,), "k.toml:1")


@pytest.mark.parametrize(
    "kinds, status",
    [
        ([Kind.WRONG], 0), ([Kind.WITHIN], 1), ([Kind.CRASHED], 1),
        ([Kind.WRONG, Kind.HUNG], 1), ([Kind.REFUSED], 3), ([], 3),
    ],
)  # fmt: skip
def test_run_status_excuses_known_failures_that_still_fail(
    kinds: list[Kind], status: int
) -> None:
    assert Run((), [record(kind) for kind in kinds], known=[KNOWN]).status == status


@pytest.mark.parametrize(
    "kind, text",
    [
        (Kind.WRONG, "known failure k.toml:1: regime=exact (why, https://x.org/1): "
         "1 failed as expected"),
        (Kind.WITHIN, "no longer fails; remove it"),
        (Kind.REFUSED, "not used: none of its cases ran"),
    ],
)  # fmt: skip
def test_known_failures_are_no_findings_but_are_told(kind: Kind, text: str) -> None:
    run = Run((), [record(kind)], known=[KNOWN])
    found = printed(terminal.show, run)
    assert text in found
    assert "WRONG" not in found


def test_summary_counts_what_was_executed() -> None:
    text = printed(terminal.summary, RECORDS, 2.0).strip()
    assert text == (
        "6 cases executed in 2.0 s (3/s) | bit-equal 16.7 %  within 33.3 %  "
        "suspect 16.7 %  wrong 16.7 %  crashed 16.7 % | 2 not run"
    )


def test_findings_come_with_the_severest_first_and_are_capped() -> None:
    many = [record(Kind.WRONG, float(n)) for n in range(2, 9)]
    text = printed(terminal.show, Run((), [*many, record(Kind.SUSPECT, 0.5, port="s")]))
    shown = [line for line in text.splitlines() if line.startswith("WRONG")]
    assert [line.split("error ")[1] for line in shown] == [
        "8x bound", "7x bound", "6x bound"
    ]  # fmt: skip
    assert text.index("SUSPECT") > text.index("error 6x")
    assert "... and 4 findings more; --json FILE keeps all of them" in text


def test_deviations_are_listed_apart_once_for_each_op_and_model() -> None:
    wrong = Judgement(WRONG)
    deviating = [
        Record("p", Cell("moe", of, "randn"), CASE, (), Judgement(Verdict(Kind.WITHIN)),
               0.1, wrong)
        for of in ("a", "a", "b")
    ]  # fmt: skip
    text = printed(terminal.show, Run((), deviating))
    assert "deviations: what the port declares, but not what the model defines" in text
    assert text.count("DEVIATION moe[p]") == 2
    assert "WRONG" not in text


@pytest.mark.parametrize(
    "kind, planned, status",
    [(Kind.WITHIN, 1, 0), (Kind.WITHIN, 2, 130), (Kind.WRONG, 2, 1)],
)
def test_run_status_tells_an_interrupted_run(
    kind: Kind, planned: int, status: int
) -> None:
    """Catches a run that passes for want of the cases that were left."""
    run = Run((), [record(kind)], planned=planned)
    assert run.status == status
    assert certificate(run)["planned"] == planned


def test_console_prints_the_names_of_ports_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches `:flushed:` turned into a face."""
    terminal.console_for().print("my.port:flushed: WRONG 1")
    assert capsys.readouterr().out == "my.port:flushed: WRONG 1\n"


def test_progress_without_a_terminal_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminal, "_QUIET", -1.0)

    def shown(console: Console) -> None:
        with terminal.progress(console, 5) as seen:
            seen(record(Kind.WITHIN))
            seen(record(Kind.WRONG))

    assert "2 of 5  WITHIN 1  WRONG 1" in printed(shown)


def test_certificate_is_plain_json_and_complete() -> None:
    def moe(x: Any, logits: Any, params: Any, layer: Any) -> None: ...

    ports = [
        port_of({"moe": moe, "device": "cpu"}, name) for name in ("mine", "second")
    ]
    document = certificate(Run([*map(about, ports)], RECORDS, 3, 1.5))
    again = json.loads(json.dumps(document))
    assert again["verdicts"] == {
        "BIT_EQUAL": 1, "WITHIN": 2, "WRONG": 1, "REFUSED": 1, "UNSUPPORTED": 1,
        "SUSPECT": 1, "CRASHED": 1,
    }  # fmt: skip
    assert again["seed"] == 3
    assert len(again["cases"]) == len(RECORDS)
    assert again["findings"][0]["verdict"] == "CRASHED"
    assert again["findings"][1]["text"][0].startswith("WRONG moe[mine]")
    assert "route" in again["ports"][0]["never_ran"]
    assert "moe" not in again["ports"][0]["never_ran"]
    assert {"python", "torch"} <= set(again["versions"])
    assert again["schema"] == 2
    assert (again["status"], again["executed"]) == (1, 6)
    assert again["ports"][0]["hardware"] == "cpu"
    assert again["ports"][0]["numerics"] == "Numerics()"
    assert again["ports"][0]["idle_cells"] == [
        {"op": "moe", "of": "other", "inputs": "randn", "verdict": "UNSUPPORTED",
         "reason": ""}
    ]  # fmt: skip

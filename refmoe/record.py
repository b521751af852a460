"""One case on one port, as judged."""

from __future__ import annotations

from dataclasses import dataclass, replace

from refmoe.exhibit import Exhibit
from refmoe.judge import Judgement
from refmoe.parse import parse
from refmoe.plan import Cell
from refmoe.verdict import Finding, Kind


@dataclass(frozen=True, slots=True)
class Record:
    """One case on one port, judged against what the port declares.

    `deviation` is the judgement against the model's own definition, where the port
    declares another one and does not meet the model's.
    """

    port: str
    cell: Cell
    case: str
    #: What the verifier keeps the open arithmetics by.
    key: tuple[object, ...]
    judgement: Judgement
    seconds: float
    deviation: Judgement | None = None
    log: str = ""
    tactic: str = ""
    exhibit: Exhibit | None = None
    study: Study | None = None
    #: What judges it again, where that is not `refmoe repro`.
    command: str = ""

    @property
    def kind(self) -> Kind:
        """The kind of the verdict."""
        return self.judgement.verdict.kind

    @property
    def empty(self) -> bool:
        """Whether the case has no token."""
        return parse(self.case, largest=None).T == 0

    def finding(self) -> Finding:
        """The record as a finding."""
        if self.study is not None:
            found = self.study.smallest.finding()
            return replace(found, cause=self.study.cause, first_seen=self.case)
        judgement = self.judgement
        return Finding(
            self.case, self.cell.op, self.port, judgement.verdict, judgement.first,
            tactic=self.tactic, log=self.log, exhibit=self.exhibit,
            command=self.command,
        )  # fmt: skip

    def deviating(self) -> Finding | None:
        """The deviation as a finding, where there is one."""
        if self.deviation is None:
            return None
        return Finding(
            self.case, self.cell.op, self.port, self.deviation.verdict,
            self.deviation.first, deviation=True,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Study:
    """What lies behind a failure: the smallest record alike, and the likely cause."""

    smallest: Record
    cause: str = ""

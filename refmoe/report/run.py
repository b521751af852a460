"""A finished run: what every report is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refmoe.expected import Entry, Standing, excuse, standings
from refmoe.report.about import About
from refmoe.verdict import Finding
from refmoe.verify import Record, findings, status

#: The exit status of a run that was ended before it was through.
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Run:
    """The ports, their records, and the known failures that were to be expected."""

    ports: Sequence[About]
    records: Sequence[Record]
    seed: int = 0
    seconds: float = 0.0
    known: Sequence[Entry] = ()
    #: Cases that would have run; more than there are records if it was interrupted.
    planned: int = 0

    def excuse(self, record: Record) -> Entry | None:
        """The known failure that the record is, if it is one."""
        return excuse(self.known, record)

    @property
    def unexpected(self) -> list[Record]:
        """The records without the known failures."""
        return [record for record in self.records if not self.excuse(record)]

    @property
    def findings(self) -> list[Finding]:
        """What no entry excuses and is worth a report, the severest first."""
        return findings(self.unexpected)

    @property
    def standings(self) -> list[Standing]:
        """How the known failures came out."""
        return standings(self.known, self.records)

    @property
    def status(self) -> int:
        """The exit status: 1 also where a known failure no longer fails.

        INTERRUPTED where cases are missing and nothing failed.
        """
        failed = any(record.kind.failed for record in self.unexpected)
        if failed or any(standing.stale for standing in self.standings):
            return 1
        if len(self.records) < self.planned:
            return INTERRUPTED
        excused = [record for record in self.records if self.excuse(record)]
        return 0 if excused else status(self.records)


def departures(records: Sequence[Record]) -> list[Finding]:
    """The first deviation of each port, op and subject."""
    first: dict[tuple[str, str, str], Finding] = {}
    for record in records:
        finding = record.deviating()
        if finding is not None:
            key = (record.port, record.cell.op, record.cell.subject)
            first.setdefault(key, finding)
    return list(first.values())

"""Records added up: one row per port, op, subject and regime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from refmoe.verdict import Kind
from refmoe.verify import Record


@dataclass(slots=True)
class Row:
    """How the cases of one cell came out on one port."""

    port: str
    op: str
    subject: str
    regime: str
    kinds: Counter[Kind] = field(default_factory=Counter)
    #: Largest and median error / bound of each result, over the cell's cases.
    largest: dict[str, float] = field(default_factory=dict)
    medians: dict[str, list[float]] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        """All cases of the cell, executed or not."""
        return self.kinds.total()

    @property
    def not_run(self) -> int:
        """Cases that were missing, unsupported or refused."""
        return sum(count for kind, count in self.kinds.items() if not kind.executed)

    def median(self, tap: str) -> float:
        """Median over the cases of the tap's median error / bound."""
        values = sorted(self.medians[tap])
        return values[len(values) // 2]

    def add(self, record: Record) -> None:
        """Count a record of this row's cell."""
        self.kinds[record.kind] += 1
        for verdict in record.judgement.results:
            if verdict.ratio is None:
                continue
            tap = verdict.tap
            self.largest[tap] = max(self.largest.get(tap, 0.0), verdict.ratio)
            if verdict.median is not None:
                self.medians.setdefault(tap, []).append(verdict.median)


def rows(records: Sequence[Record], *, merged: bool = False) -> list[Row]:
    """One row per port and cell, in the order in which they were first met.

    `merged` adds up the regimes of an op and subject.
    """
    found: dict[tuple[str, str, str, str], Row] = {}
    for record in records:
        cell = record.cell
        key = (record.port, cell.op, cell.subject, "all" if merged else cell.regime)
        found.setdefault(key, Row(*key)).add(record)
    order = {key: number for number, key in enumerate(found)}
    return sorted(
        found.values(), key=lambda row: order[row.port, row.op, row.subject, row.regime]
    )

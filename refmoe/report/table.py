"""Records added up: one row per port, op, subject and inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from refmoe.verdict import Kind
from refmoe.verify import Record


@dataclass(slots=True)
class Row:
    """How the cases of one cell came out on one port."""

    port: str
    op: str
    subject: str
    #: A regime, a profile or a law.
    inputs: str
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

    @property
    def failures(self) -> str:
        """How many cases were wrong, and what else failed; empty if nothing did."""
        wrong = self.kinds[Kind.WRONG]
        rest = _named(self.kinds, lambda kind: kind.failed and kind is not Kind.WRONG)
        return ", ".join([str(wrong)] * bool(wrong) + [rest] * bool(rest))

    @property
    def others(self) -> str:
        """Cases that ran and are neither failures nor plain passes."""
        plain = (Kind.BIT_EQUAL, Kind.WITHIN)
        return _named(
            self.kinds,
            lambda kind: kind.executed and not kind.failed and kind not in plain,
        )

    @property
    def error(self) -> str:
        """Median and largest error / bound of the tap that comes nearest to it."""
        if not self.largest:
            return ""
        tap = max(self.largest, key=lambda name: self.largest[name])
        median = f"{self.median(tap):.2g}, " if self.medians.get(tap) else ""
        return f"{tap} {median}{self.largest[tap]:.2g}"

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


def _named(kinds: Counter[Kind], shown: Callable[[Kind], bool]) -> str:
    found = (kind for kind in Kind if kinds[kind] and shown(kind))
    return ", ".join(f"{kinds[kind]} {kind.lower()}" for kind in found)


def rows(records: Sequence[Record]) -> list[Row]:
    """One row per port and cell, in the order in which they were first met."""
    found: dict[tuple[str, str, str, str], Row] = {}
    for record in records:
        cell = record.cell
        key = (record.port, cell.op, cell.subject, cell.inputs)
        found.setdefault(key, Row(*key)).add(record)
    return list(found.values())


def condensed(found: Sequence[Row]) -> list[Row]:
    """The rows with those of an op and subject that merely passed added up in one."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in found:
        inputs = row.inputs if row.failures or row.others else ""
        groups.setdefault((row.port, row.op, row.subject, inputs), []).append(row)
    return [group[0] if len(group) == 1 else _sum(group) for group in groups.values()]


def _sum(group: Sequence[Row]) -> Row:
    first = group[0]
    total = Row(first.port, first.op, first.subject, f"{len(group)} kinds")
    for row in group:
        total.kinds += row.kinds
        for tap, ratio in row.largest.items():
            total.largest[tap] = max(total.largest.get(tap, 0.0), ratio)
        for tap, ratios in row.medians.items():
            total.medians.setdefault(tap, []).extend(ratios)
    return total

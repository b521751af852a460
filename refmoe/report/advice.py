"""What a port should declare: the one arithmetic that fits most of what it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from refmoe.record import Record
from refmoe.verdict import Finding, Kind


def fits(finding: Finding) -> str:
    """The words that name the arithmetic an UNDECLARED finding fits; else nothing."""
    if finding.verdict.kind is not Kind.UNDECLARED:
        return ""
    return finding.verdict.detail.partition("; ")[0]


def advice(records: Sequence[Record]) -> list[str]:
    """For each port with UNDECLARED records, what to declare and how many then pass."""
    found = []
    for port in dict.fromkeys(record.port for record in records):
        open_ = [
            record.judgement.fitting
            for record in records
            if record.port == port and record.kind is Kind.UNDECLARED
        ]
        names = Counter(name for fitting in open_ for name in fitting)
        for name, count in names.most_common(1):
            cases = "case" if len(open_) == 1 else "cases"
            found.append(
                f"{port}: declare {name} and {count} of these {len(open_)} UNDECLARED "
                f"{cases} pass"
            )
    return found

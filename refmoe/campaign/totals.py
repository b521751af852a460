"""What a campaign has done so far, made from the lines of its streams."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from refmoe.campaign.batch import UNBUILT, Place
from refmoe.campaign.state import CORPUS, Checked, Found, Line, Result
from refmoe.verdict import Kind

#: Numbers of calls and the like, which differ between two studies of one mistake.
_NOTES = re.compile(r": explains [^)]*\)")


@dataclass(slots=True)
class Totals:
    """Counts, without the lines themselves: their size does not grow with the run."""

    cases: int = 0
    replayed: int = 0
    empty: int = 0
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    #: Cases by op, model or format, regime and architecture.
    cells: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    #: Largest error / bound of what passed, by port, and its case.
    nearest: dict[str, tuple[float, str]] = field(default_factory=dict)
    #: Of cases that several ports ran: which came closest to the oracle's values.
    closest: Counter[str] = field(default_factory=Counter)
    unbuilt: dict[str, str] = field(default_factory=dict)
    failures: Counter[tuple[int, Place]] = field(default_factory=Counter)
    found: dict[tuple[int, Place], Found] = field(default_factory=dict)

    def add(self, stream: int, lines: Iterable[Line]) -> None:
        """Count what came from a stream."""
        for line in lines:
            if isinstance(line, Found):
                self.found[stream, line.place] = line
            elif isinstance(line, Checked):
                self._count(stream, line)

    def _count(self, stream: int, line: Checked) -> None:
        op, *pairs = line.case.split()
        words = dict(pair.split("=", 1) for pair in pairs)
        if line.batch == CORPUS:
            self.replayed += 1
        else:
            self.cases += 1
        subject = words.get("model") or words.get("format") or "-"
        self.cells[op, subject, words["regime"], words.get("arch", "-")] += 1
        decided = 0
        for port, result in line.results.items():
            self.kinds.setdefault(port, Counter())[result.kind] += 1
            if result.kind == UNBUILT:
                self.unbuilt[line.case] = result.stage
                continue
            kind = Kind(result.kind)
            decided += kind.decided and words["T"] != "0"
            if kind.failed:
                self.failures[stream, (port, op, result.stage)] += 1
            elif result.ratio is not None and math.isfinite(result.ratio):
                best = self.nearest.get(port, (-1.0, ""))
                self.nearest[port] = max(best, (result.ratio, line.case))
        self.empty += not decided
        winner = closest(line.results)
        if winner:
            self.closest[winner] += 1

    @property
    def checked(self) -> int:
        """Cases that were drawn, and those of the corpus."""
        return self.cases + self.replayed

    @property
    def decided(self) -> int:
        """Cases with a token in them of which something was said."""
        return self.checked - self.empty

    @property
    def findings(self) -> list[tuple[Found, Counter[int]]]:
        """One of each port, op, stage and cause, with its failures by stream."""
        counts: dict[tuple[str, ...], Counter[int]] = {}
        first: dict[tuple[str, ...], Found] = {}
        for (stream, place), found in sorted(self.found.items()):
            key = (*place, cause_of(found.cause))
            failures = counts.setdefault(key, Counter())
            failures[stream] += self.failures[stream, place]
            kept = first.setdefault(key, found)
            if len(found.case) < len(kept.case):
                first[key] = found
        return [(found, counts[key]) for key, found in first.items()]

    @property
    def unstudied(self) -> int:
        """Failures that nothing was found out about yet: the run was cut off."""
        return sum(n for key, n in self.failures.items() if key not in self.found)


def cause_of(text: str) -> str:
    """A cause without the numbers of its evidence."""
    return _NOTES.sub(")", text)


def closest(results: dict[str, Result]) -> str:
    """The port that is closer than all others, "equal" if several are; "" of one."""
    off = {port: one.off for port, one in results.items() if one.off is not None}
    if len(off) < 2:
        return ""
    least = min(off.values())
    best = [port for port, value in off.items() if value == least]
    return best[0] if len(best) == 1 else "equal"

"""False alarms: honest ports on many cases, each with inputs of its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from itertools import islice
from typing import Any

from refmoe.case import Case
from refmoe.laws import LAWS
from refmoe.loading import port_of
from refmoe.plan import DEFAULT_FORMATS, DEFAULT_MODELS, Cell, cases, cells
from refmoe.port import Port
from refmoe.record import Record
from refmoe.regimes import REGIMES
from refmoe.schedule import heard
from refmoe.score.interval import interval
from refmoe.score.spread import spread
from refmoe.verdict import Kind
from refmoe.verify import Verifier

#: Verdicts that an honest port may get; every other one is a false alarm.
FINE = (
    Kind.BIT_EQUAL, Kind.WITHIN, Kind.AMBIGUOUS, Kind.UNDECIDED, Kind.UNSUPPORTED,
)  # fmt: skip
#: Sizes of a cell's cases, and every how many cases a law is heard.
_SIZES, _LAW = 8, 25
#: Cases that a process is given at a time.
_CHUNK = 250
#: Seeds of these cases, far from those that tests and verifications use.
_FIRST_SEED = 1 << 20


@dataclass(frozen=True, slots=True)
class Tally:
    """Verdicts on honest ports, and each that none of them deserves."""

    #: Cases from 0 on that were drawn.
    drawn: int = 0
    #: Those that were executed and decided, and have a token.
    decided: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    alarms: tuple[str, ...] = ()
    #: The sum of the probabilities that statistical bounds state for SUSPECT.
    expected: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.drawn + other.drawn, self.decided + other.decided,
            self.verdicts + other.verdicts, self.alarms + other.alarms,
            self.expected + other.expected,
        )  # fmt: skip

    def document(self) -> dict[str, Any]:
        """The part `honest` of a score."""
        low, high = interval(len(self.alarms), max(self.decided, 1))
        return {
            "ports": len(_entries()), "drawn": self.drawn, "decided": self.decided,
            "verdicts": dict(self.verdicts), "alarms": list(self.alarms),
            "suspects_expected": self.expected,
            "interval_95": [low, high], "method": "Clopper-Pearson, two-sided",
        }  # fmt: skip


def tally_of(document: dict[str, Any]) -> Tally:
    """What the part `honest` of a score holds."""
    return Tally(
        document["drawn"], document["decided"], Counter(document["verdicts"]),
        tuple(document["alarms"]), document["suspects_expected"],
    )  # fmt: skip


def tallied(numbers: Iterable[int]) -> Tally:
    """The cases of these numbers, judged."""
    verifiers: dict[str, Verifier] = {}
    tally = Tally()
    for number in numbers:
        port, cell, case = numbered(number)
        verifier = verifiers.setdefault(port.name, Verifier())
        tally += _of(verifier.check(port, case, cell))
    return tally


def _of(record: Record) -> Tally:
    alarm: tuple[str, ...] = ()
    if record.kind not in FINE:
        detail = record.judgement.verdict.detail
        alarm = (f"{record.kind} {record.port}: {record.case}: {detail}",)
    likely = (verdict.probability or 0.0 for verdict in record.judgement.results)
    return Tally(
        1,
        int(record.kind.decided and not record.empty),
        Counter([str(record.kind)]),
        alarm,
        math.fsum(likely),
    )


def numbered(number: int) -> tuple[Port, Cell, Case]:
    """The case of a number: the ports take turns, each goes through all its cells.

    Every op, model, format and regime comes in every size in time; inputs are drawn
    from a seed that no other number has.
    """
    names = tuple(_entries())
    name, turn = names[number % len(names)], number // len(names)
    port, grid, hearings = _of_port(name)
    if turn % _LAW == _LAW - 1:
        cell, case = hearings[turn // _LAW % len(hearings)]
        return port, cell, case.but(seed=_FIRST_SEED + number)
    # Another size in every round, and for every cell of a round.
    size = (turn + turn // len(grid)) % _SIZES
    cell = grid[turn % len(grid)]
    case = next(islice(cases(cell, _SIZES), size, None))
    return port, cell, case.but(seed=_FIRST_SEED + number)


@cache
def _of_port(name: str) -> tuple[Port, list[Cell], list[tuple[Cell, Case]]]:
    """An honest port, its cells, and the cases of its laws."""
    entry = _entries()[name]
    port = port_of(entry.port(), name)
    grid = cells(
        tuple(port.ops), entry.models or DEFAULT_MODELS,
        entry.formats or DEFAULT_FORMATS, tuple(REGIMES), confined=True,
    )  # fmt: skip
    # Round and round, neighbours from afar: no port starts where the other does.
    start = list(_entries()).index(name) * 7 % len(grid)
    hearings = heard([port], grid, tuple(LAWS.values()))
    return (
        port,
        grid[start:] + grid[:start],
        [(cell, case) for _, cell, case in hearings],
    )


def _entries() -> dict[str, Any]:
    found: dict[str, Any] = import_module("refmoe.gallery").entries("honest")
    return found


def extended(tally: Tally, cases: int, workers: int = 1) -> Iterator[Tally]:
    """The tally after each chunk of more cases, until so many are decided."""
    while tally.decided < cases:
        end = tally.drawn + cases - tally.decided
        starts = range(tally.drawn, end, _CHUNK)
        parts = [range(start, min(start + _CHUNK, end)) for start in starts]
        for more in spread(tallied, parts, workers):
            tally += more
            yield tally

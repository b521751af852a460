"""One entry of the gallery on trial: every property on as many cases."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from refmoe.case import Case, elements
from refmoe.laws import LAWS
from refmoe.plan import DEFAULT_FORMATS, Cell, cases, cells
from refmoe.port import Port
from refmoe.problem import Problem
from refmoe.record import Record
from refmoe.regimes import REGIMES
from refmoe.schedule import heard, schedule
from refmoe.score.properties import broken, of_cell
from refmoe.score.watched import Watched
from refmoe.verdict import Kind
from refmoe.verify import Verifier, status
from refmoe.worker.runner import Runner

if TYPE_CHECKING:
    from refmoe.gallery.entry import Entry

#: Models whose layers show what needs no model of its own.
_MODELS = ("mixtral-8x7b", "qwen3-30b-a3b")
#: Cases of each cell that a verification gives to what no property has killed.
_MOST = 8
#: Cases of an oracle's property for each hearing of a law, which has many launches.
_PER_HEARING = 4
#: Problems for the next entry: most are shown to many.
_PROBLEMS: OrderedDict[Case, Problem] = OrderedDict()

#: A new port of the entry.
Load = Callable[[], Port]
Plan = Sequence[tuple[Cell, Case]]


@dataclass(frozen=True, slots=True)
class Hit:
    """The first case that breaks a property: how many it took, where it shows."""

    after: int
    stage: str
    case: str


@dataclass(slots=True)
class Row:
    """One entry: what was asked of it, what it breaks, what a verification says."""

    kind: str
    name: str
    group: str
    at: str
    op: str
    reference: str
    #: killed, survived, or never ran: the law that would kill it could not be heard.
    status: str = "survived"
    verdict: str = ""
    #: Whether it took a whole verification, more cases than a property has.
    late: bool = False
    seconds: float = 0.0
    hits: dict[str, Hit] = field(default_factory=dict)
    #: Cases that were executed and decided, by property.
    asked: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Trial:
    """An entry, and what was seen of it so far."""

    entry: Entry
    load: Load
    runner: Runner
    row: Row
    records: list[Record] = field(default_factory=list)

    def strict(self, plan: Plan, name: str) -> None:
        """A property's cases on a new port, by its declaration, until one breaks it."""
        port, watched = self.load(), Watched(self.runner)
        verifier = Verifier(runner=watched, problems=_PROBLEMS, lenient=False)
        for after, (cell, case) in enumerate(plan, 1):
            record = verifier.check(port, case, cell)
            self.records.append(record)
            self.row.asked[name] += record.kind.decided and not record.empty
            for broke, stage in broken(record, watched.heard()):
                self.row.hits.setdefault(broke, Hit(after, stage, record.case))
            if name in self.row.hits:
                return

    def verified(self, plan: Plan) -> str:
        """What an ordinary verification of the plan calls the entry; "" if it is fine.

        UNDECLARED will do where the entry deserves no more.
        """
        port, verifier = self.load(), Verifier(runner=self.runner, problems=_PROBLEMS)
        open_ = []
        for cell, case in plan:
            record = verifier.check(port, case, cell)
            self.records.append(record)
            if record.kind.failed or record.kind == self.entry.verdict:
                return str(record.kind)
            if record.deviation is not None:
                return "deviates"
            if record.kind is Kind.UNDECLARED:
                open_.append(record)
        settled = (verifier.settled(record) for record in open_)
        return next((str(one.kind) for one in settled if one.kind.failed), "")


def tried(
    kind: str,
    entry: Entry,
    load: Load,
    runner: Runner,
    count: int,
    only: Sequence[str] = (),
) -> Row:
    """An entry against every property, or against some, `count` cases of each.

    Each property has a new port and stops at the first case that breaks it. Then a
    verification says what that is worth: of the cases of one property after the other,
    else one as long as an ordinary one. With `count` 0 there is that one alone.
    """
    start = time.perf_counter()
    row = Row(kind, entry.name, entry.group, entry.at, entry.op, entry.reference)
    trial, asked = _Trial(entry, load, runner, row), {}
    for name, plan in plans(load(), entry, count) if count else ():
        if not only or name in only:
            asked[name] = plan
            trial.strict(plan, name)
    row.verdict = _verdict(trial, asked)
    if not row.verdict and not only:
        row.verdict = trial.verified(verification(load(), entry))
        row.late = bool(row.verdict)
        if not row.verdict and status(trial.records) == 3:
            row.verdict = "nothing decided"
            row.hits["contract:decided"] = Hit(len(trial.records), entry.op, "")
    row.status = "killed" if row.verdict else _unkilled(trial)
    row.seconds = round(time.perf_counter() - start, 3)
    return row


def _verdict(trial: _Trial, asked: Mapping[str, Plan]) -> str:
    """The verdict that the properties' hits are worth."""
    hits, deserved = trial.row.hits, trial.entry.verdict
    if any(name.startswith(("guard:", "contract:")) for name in hits):
        return "WRONG"
    if hits and deserved == "UNDECLARED":
        return deserved
    prefixes = {name: asked[name][: hits[name].after] for name in hits}

    def work(name: str) -> tuple[bool, int]:
        """Other arithmetics are tried on small cases and one launch sooner."""
        sizes = (elements(case) for _, case in prefixes[name])
        return name.startswith("law:"), sum(sizes)

    for name in sorted(hits, key=work):
        verdict = trial.verified(prefixes[name])
        if verdict:
            return verdict
    return ""


def _unkilled(trial: _Trial) -> str:
    needs = [law for law in LAWS.values() if law.catches == trial.entry.name]
    decided = {
        of_cell(record.cell)
        for record in trial.records
        if record.kind.decided and not record.empty
    }
    silent = any(f"law:{law.name}" not in decided for law in needs)
    return "never ran" if silent else "survived"


def _grid(entry: Entry) -> list[Cell]:
    """The cells of a run by itself that show the entry, if any does."""
    return cells(
        (entry.op,), entry.models or _MODELS, entry.formats or DEFAULT_FORMATS,
        tuple(REGIMES), confined=True,
    )  # fmt: skip


def plans(port: Port, entry: Entry, count: int) -> Iterator[tuple[str, Plan]]:
    """`count` cases for each property, of all its subjects in turn."""
    members: dict[str, list[Cell]] = {}
    for cell in _grid(entry):
        members.setdefault(of_cell(cell), []).append(cell)
    for name, own in members.items():
        drawn = [list(cases(cell, max(count, 2))) for cell in own]
        yield (
            name,
            [
                (own[number % len(own)], drawn[number % len(own)][number])
                for number in range(count)
            ],
        )
    # Some laws are about wider ops only.
    ops = dict.fromkeys((entry.op, "moe"))
    wide = cells(
        tuple(ops),
        entry.models or _MODELS,
        entry.formats or DEFAULT_FORMATS,
        ("exact",),
    )
    hearings = -(-count // _PER_HEARING)
    for name, law in LAWS.items():
        every = [(c, case) for _, c, case in heard([port], wide, [law], hearings)]
        turns = [every[first::hearings] for first in range(hearings)]
        if every:
            yield f"law:{name}", list(chain.from_iterable(turns))[:hearings]


def verification(port: Port, entry: Entry) -> Plan:
    """What an ordinary verification would run."""
    grid = _grid(entry)
    plan = chain(
        schedule([port], grid, _MOST), heard([port], grid, tuple(LAWS.values()))
    )
    return [(cell, case) for _, cell, case in plan]

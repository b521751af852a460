"""One batch: hypothesis draws cases of one op and is led towards the bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, errors
from hypothesis.database import ExampleDatabase
from hypothesis.strategies import SearchStrategy

from refmoe import reference
from refmoe.campaign.closeness import Heard, distance
from refmoe.campaign.plan import Plan
from refmoe.campaign.state import Result
from refmoe.case import Case
from refmoe.plan import Cell
from refmoe.port import Port, spelt
from refmoe.record import Record
from refmoe.strategies import MODELS, cases
from refmoe.verify import Verifier

#: Cases of a batch; it ends earlier at a failure that is new to its stream.
CASES = 100
#: What target() gets of an error beyond its bound, or infinitely far beyond.
_FARTHEST = 4.0
#: In place of a verdict: the case was drawn, and cannot be built.
UNBUILT = "UNBUILT"
#: Port, op and stage of a failure.
Place = tuple[str, str, str]


class Enough(BaseException):
    """The stream's share is drawn, or its time is over."""


class _New(Exception):
    """A failure at a new place: hypothesis keeps the example and stops."""


@dataclass(slots=True)
class Batch:
    """A run over the cases of `op`, the same for the same plan, stream and number.

    `seen` gets each case that was checked, with its records and results, in order, and
    ends the batch by raising `Enough`. `known` are the places where the stream has
    found failures before.
    """

    plan: Plan
    ports: Sequence[Port]
    verifier: Verifier
    op: str
    known: frozenset[Place]
    seen: Callable[[Case, list[Record], dict[str, Result]], None]
    #: Lines of this batch's cases, and whether they ended it.
    drawn: dict[str, bool] = field(default_factory=dict)

    def run(self, seed: int, database: ExampleDatabase | None) -> None:
        """Draw and check; returns at the end of the batch."""
        alone = self.ports[0] if len(self.ports) == 1 else None
        strategy = cases(
            alone,
            ops=[self.op],
            models=self.plan.models or MODELS,
            regimes=self.plan.regimes or None,
            max_elements=self.plan.elements,
            **({"formats": self.plan.formats} if self.plan.formats else {}),
        )
        archs = hypothesis.strategies.sampled_from(self.plan.archs or (None,))
        strategy = hypothesis.strategies.builds(Case.but, strategy, arch=archs)
        if alone is not None:
            # One way of running it a case: the time goes to more cases.
            strategy = strategy.flatmap(partial(with_a_tactic, alone))

        # A seed takes the database away; settings that come later give it back.
        @hypothesis.settings(
            max_examples=CASES,
            deadline=None,
            database=database,
            phases=(Phase.reuse, Phase.generate, Phase.target),
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            # A kernel may be slow to check; that cases are hard to draw is our mistake.
            suppress_health_check=[HealthCheck.too_slow],
        )
        @hypothesis.seed(seed)
        @hypothesis.given(strategy)
        def search(case: Case) -> None:
            self._one(case)

        try:
            search()
        except _New:
            pass
        except errors.Flaky as flaky:
            # No case is checked twice, so that whatever else it raises looks flaky.
            for error in getattr(flaky, "exceptions", ()):
                usual = isinstance(error, _New | errors.HypothesisException)
                if isinstance(error, Exception) and not usual:
                    raise error from None

    def _one(self, case: Case) -> None:
        line = str(case)
        if line not in self.drawn:
            records, results = checked(self.ports, case, self.verifier)
            self.drawn[line] = any(
                record.kind.failed and place(record) not in self.known
                for record in records
            )
            self.seen(case, records, results)
            self._lead(case, results)
        if self.drawn[line]:
            raise _New

    def _lead(self, case: Case, results: dict[str, Result]) -> None:
        hypothesis.event(f"{case.op} {case.model or case.format} {case.regime}")
        for port, result in results.items():
            hypothesis.event(f"{result.kind} of {port}")
            # Where nothing is off there is nowhere to be led, but to simpler cases.
            if result.ratio:
                near = min(result.ratio, _FARTHEST)
                hypothesis.target(near, label=f"error / bound of {port}")
        built = all(result.kind != UNBUILT for result in results.values())
        margin = self._margin(case) if built else None
        if margin is not None:
            hypothesis.target(-margin, label="tie margin")

    def _margin(self, case: Case) -> float | None:
        """How near a token is to choosing otherwise; None without a router."""
        if case.op not in ("route", "moe") or not case.T:
            return None
        trace = reference.trace(self.verifier.problem(case), upto="ids")
        admissible = trace["ids"].admissible
        if admissible is None or not len(admissible.margin):
            return None
        least = float(admissible.margin.min())
        return min(max(least, -_FARTHEST), _FARTHEST) if least == least else None


def with_a_tactic(port: Port, case: Case) -> SearchStrategy[Case]:
    """The case with one of the tactics that the port offers, if it offers several."""
    try:
        words = {spelt(tactic): None for tactic in port.tactics(case)}
    except Exception:
        # The verifier meets it too, and tells.
        words = {}
    if len(words) < 2:
        return hypothesis.strategies.just(case)
    return hypothesis.strategies.builds(
        case.but, tactic=hypothesis.strategies.sampled_from([*words])
    )


def place(record: Record) -> Place:
    """Port, op and stage of a record."""
    return record.port, record.cell.op, record.judgement.verdict.tap


def checked(
    ports: Sequence[Port], case: Case, verifier: Verifier
) -> tuple[list[Record], dict[str, Result]]:
    """The case on every port that has its op.

    Several ports are also measured against the oracle's values, for who is closer. A
    case that cannot be built has no records.
    """
    for port in ports:
        # It runs while the problem is built here.
        verifier.runner.announce(port, case)
    try:
        verifier.problem(case)
        return _judged(ports, case, verifier)
    except ValueError as error:
        # The definition may also turn it down on the way.
        return [], {port.name: Result(UNBUILT, str(error)) for port in ports}


def _judged(
    ports: Sequence[Port], case: Case, verifier: Verifier
) -> tuple[list[Record], dict[str, Result]]:
    cell = Cell(case.op, case.model or case.format or "-", case.regime, "fuzz")
    heard = verifier.runner
    records, results = [], {}
    for port in ports:
        if isinstance(heard, Heard):
            heard.outcome = None
        record = verifier.settled(verifier.check(port, case, cell))
        verdict = record.judgement.verdict
        off = None
        if isinstance(heard, Heard) and heard.outcome is not None:
            off = distance(verifier.problem(case), heard.outcome)
        records.append(record)
        results[port.name] = Result(str(verdict.kind), verdict.tap, verdict.ratio, off)
    return records, results

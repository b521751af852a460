"""The pipeline: ports x cells of cases -> records."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from oracle.numerics import PRESETS, Numerics
from oracle.spec import Layer
from refmoe.case import Case, elements
from refmoe.declarations import others
from refmoe.departure import nothing, other_tensors
from refmoe.exhibit import Album
from refmoe.judge import Judgement, judge
from refmoe.laws import Law, judge_law, law_called
from refmoe.plan import Cell
from refmoe.port import Port, spelt
from refmoe.problem import Problem, build
from refmoe.record import Record as Record
from refmoe.schedule import heard
from refmoe.schedule import schedule as schedule
from refmoe.undeclared import Search, Trial
from refmoe.verdict import Finding, Kind, Outcome, Verdict
from refmoe.worker.runner import InProcess, Runner, announced

#: Problems that are kept for the next port, and the largest that is, in elements.
_KEPT, _LARGEST_KEPT = 256, 1 << 20


@dataclass(slots=True)
class Verifier:
    """Checks cases one by one, and remembers which undeclared arithmetics stay open.

    What is outside a port's declaration is UNDECLARED only as long as one other known
    arithmetic explains all such cases of the op.
    """

    open: dict[tuple[object, ...], dict[str, Numerics]] = field(default_factory=dict)
    searches: dict[tuple[object, ...], Search] = field(default_factory=dict)
    runner: Runner = field(default_factory=InProcess)
    album: Album = field(default_factory=Album)
    problems: OrderedDict[Case, Problem] = field(default_factory=OrderedDict)
    #: Whether undeclared arithmetics are tried at all: without, each case is judged by
    #: the declaration alone, and sooner.
    lenient: bool = True

    def problem(self, case: Case) -> Problem:
        """The case's problem, which many ports share: building costs more than judging.

        Raises ValueError if the case cannot be built.
        """
        found = self.problems.pop(case, None) or build(case)
        if elements(case) <= _LARGEST_KEPT:
            self.problems[case] = found
        if len(self.problems) > _KEPT:
            self.problems.popitem(last=False)
        return found

    def check(self, port: Port, case: Case, cell: Cell | None = None) -> Record:
        """Run and judge one case with every tactic of the port; the severest counts.

        Raises ValueError if the case cannot be built.
        """
        regime = case.regime if case.law is None else f"law:{case.law}"
        cell = cell or Cell(case.op, case.model or case.format or "-", regime)
        try:
            reason = port.unsupported(case) if case.op in port.ops else None
            tactics = () if reason else port.tactics(case)
        except Exception as error:
            return _lost(port, cell, case, error)
        if not tactics:
            reason = reason or f"the port offers no tactic {case.tactic} for this case"
            none = Judgement(Verdict(Kind.UNSUPPORTED, detail=reason))
            return Record(port.name, cell, str(case), (), none, 0.0, log=reason)
        problem = self.problem(case.but(law=None))
        try:
            layer, numerics = port.definition(problem.layer)
        except Exception as error:
            return _lost(port, cell, case, error)
        other = other_tensors(problem.layer, layer)
        if other is not None:
            return Record(port.name, cell, str(case), (), other, 0.0)
        if case.numerics is not None:
            numerics = PRESETS[case.numerics]
        problem = problem.but(numerics=numerics)
        if case.law is not None:
            record = self._hear(law_called(case.law), port, cell, problem, layer)
        else:
            records = [
                self._check(port, cell, problem, layer, tactic) for tactic in tactics
            ]
            record = max(records, key=lambda record: record.kind.severity)
        if record.kind.failed:
            self.runner.distrust(port)
        return record

    def _check(
        self, port: Port, cell: Cell, problem: Problem, layer: Layer, tactic: object
    ) -> Record:
        """One tactic, judged against `layer`, which the port declares."""
        start = time.perf_counter()
        case, numerics = problem.case, problem.numerics
        if tactic is not None:
            case = case.but(tactic=spelt(tactic))
        outcome = self.runner.run(port, problem, tactic)
        key, known = self._known(port, case, layer, numerics)
        declared, contract = problem.but(layer=layer), port.contract
        judgement = judge(declared, outcome, others=known, **contract)
        trial = Trial(port, problem.case, layer, numerics, tactic)
        self.searches.setdefault(key, Search()).note(judgement, trial)
        arithmetic = outcome.status == "ran" and not outcome.violations
        if arithmetic and judgement.verdict.kind in (Kind.UNDECLARED, Kind.WRONG):
            known = {name: known[name] for name in judgement.fitting}
        self.open[key] = known
        deviation = None
        if arithmetic and layer != problem.layer:
            against = judge(problem, outcome, **contract)
            deviation = against if against.verdict.kind.failed else None
            judgement = nothing(outcome, deviation) or judgement
        seconds = time.perf_counter() - start
        return Record(
            port.name, cell, str(case), key, judgement, seconds, deviation, outcome.log,
            "" if tactic is None else str(tactic),
            exhibit=self.album.picture(
                (port.name, cell.op, cell.subject), declared, outcome, judgement
            ),
        )  # fmt: skip

    def _known(
        self, port: Port, case: Case, layer: Layer, numerics: Numerics
    ) -> tuple[tuple[object, ...], dict[str, Numerics]]:
        """The key of the arithmetics that are still open, and those."""
        key = (port.name, case.op, numerics, layer.activations, layer.dtype)
        known = self.open.get(key) if self.lenient else {}
        return key, others(case.op, layer, numerics) if known is None else known

    def _hear(
        self, law: Law, port: Port, cell: Cell, problem: Problem, layer: Layer
    ) -> Record:
        """One law, in bounds of what the port declares."""
        start = time.perf_counter()
        case = problem.case
        key, known = self._known(port, case, layer, problem.numerics)
        reason = law.objection(case, port)
        if reason is None:
            held = self.runner.hold(law, port, problem)
            judgement = judge_law(held, port, problem, others=known)
            if judgement.verdict.kind is Kind.UNDECLARED:
                self.open[key] = {name: known[name] for name in judgement.fitting}
        else:
            judgement = Judgement(Verdict(Kind.UNSUPPORTED, detail=reason))
        line, seconds = str(case.but(law=law.name)), time.perf_counter() - start
        return Record(port.name, cell, line, key, judgement, seconds)

    def settled(self, record: Record) -> Record:
        """The record after all cases: UNDECLARED with all that fits; else WRONG."""
        if record.kind is not Kind.UNDECLARED:
            return record
        if record.key in self.searches:
            search = self.searches[record.key]
            self.open[record.key] = search.left(self.open[record.key], self._again)
        names = list(self.open[record.key])
        if not names:
            return unexplained(record)
        verdict = record.judgement.verdict
        _, mark, said = verdict.detail.partition("; ")
        verdict = replace(verdict, detail=f"fits {names[0]}{mark}{said}")
        found = replace(record.judgement, verdict=verdict, fitting=tuple(names))
        return replace(record, judgement=found)

    def _again(self, trial: Trial) -> tuple[Problem, Outcome]:
        """A launch repeated: what it answers, and what came."""
        problem = self.problem(trial.case).but(numerics=trial.numerics)
        outcome = self.runner.run(trial.port, problem, trial.tactic)
        return problem.but(layer=trial.layer), outcome


def _lost(port: Port, cell: Cell, case: Case, error: Exception) -> Record:
    """The record of a port that did not say what it declares."""
    crash = Outcome("crashed", log=f"{type(error).__name__}: {error}")
    outcome: Outcome = getattr(error, "outcome", crash)
    verdict = Verdict(Kind(outcome.status.upper()), detail=outcome.log)
    judgement = Judgement(verdict)
    return Record(port.name, cell, str(case), (), judgement, 0.0, log=outcome.log)


def unexplained(record: Record) -> Record:
    """An UNDECLARED record as WRONG: what fits it does not fit the other cases."""
    detail = "no one known arithmetic fits this and the other cases"
    verdict = replace(record.judgement.verdict, kind=Kind.WRONG, detail=detail)
    return replace(record, judgement=replace(record.judgement, verdict=verdict))


def verify(
    ports: Sequence[Port],
    cells: Sequence[Cell],
    count: int,
    *,
    seed: int = 0,
    laws: Sequence[Law] = (),
    hearings: int = 1,
    seen: Callable[[Record], None] = lambda record: None,
    runner: Runner | None = None,
    pictures: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Record]:
    """Check `count` cases of every cell on every port that has the op; `seen` each.

    Then so many `hearings` of each law on each op of each port. So many findings of
    each op and subject of a port get `pictures`. Once `stopped`, no case begins.
    """
    verifier = Verifier(runner=runner or InProcess(), album=Album(pictures))
    records = []
    plan = schedule(ports, cells, count, seed)
    plan = chain(plan, heard(ports, cells, laws, hearings, seed))
    for port, cell, case in announced(plan, verifier.runner):
        records.append(verifier.check(port, case, cell))
        seen(records[-1])
        if stopped():
            break
    return [verifier.settled(record) for record in records]


def status(records: Sequence[Record]) -> int:
    """The exit status: 1 if anything failed, 3 if nothing was decided, else 0.

    Cases without tokens decide nothing: whoever returns nothing passes them.
    """
    if any(record.kind.failed for record in records):
        return 1
    told = (record.kind.decided and not record.empty for record in records)
    return 0 if any(told) else 3


def findings(records: Sequence[Record]) -> list[Finding]:
    """Findings of all records worth a report, the severest first.

    Among them those that were studied, then the largest errors.
    """

    def weight(record: Record) -> tuple[int, bool, float]:
        verdict = record.judgement.verdict
        return -verdict.kind.severity, record.study is None, -(verdict.ratio or 0.0)

    reported = [record for record in records if record.kind.reported]
    return [record.finding() for record in sorted(reported, key=weight)]

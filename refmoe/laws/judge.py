"""A law on a port: its launches, and the verdict on their outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from oracle.numerics import Numerics
from refmoe.judge import Judgement, judge
from refmoe.laws.agree import agree
from refmoe.laws.relation import Agreement, Launch, Law, drive
from refmoe.laws.sides import Outcomes
from refmoe.port import Port
from refmoe.problem import Problem
from refmoe.runner import run
from refmoe.verdict import Kind, Outcome, Verdict, severest


@dataclass(frozen=True, slots=True)
class Held:
    """The outcomes of a law's launches by name, and what must agree among them."""

    outcomes: Outcomes
    agreements: Sequence[Agreement]


def launched(law: Law, port: Port, problem: Problem) -> Held:
    """The law with every launch run on the port, in this process.

    All tensors stay alive until the last one, so that no address is used twice but
    where the law says so.
    """
    memories: dict[str, dict[str, Any]] = {}
    given = None if problem.case.tactic is None else port.tactics(problem.case)[0]

    def launch(step: Launch) -> Outcome:
        memory = memories.setdefault(step.memory or f"of {step.name}", {})
        tactic = given if step.tactic is None else step.tactic
        return run(port, step.problem, tactic, memory=memory, captured=step.captured)

    return Held(*drive(law.steps(problem, port), launch))


def recorded(law: Law, port: Port, problem: Problem, outcomes: Outcomes) -> Held:
    """The law as it was launched elsewhere; nothing is run."""
    return Held(*drive(law.steps(problem, port), lambda step: outcomes[step.name]))


def judge_law(
    held: Held,
    port: Port,
    problem: Problem,
    *,
    others: Mapping[str, Numerics] | None = None,
) -> Judgement:
    """What the outcomes are worth. Pure: it launches nothing.

    A launch that did not run, or broke the contract, decides the verdict; else the
    severest agreement does. What no bound of the problem's numerics admits is tried
    under each of `others` (name -> Numerics) and is UNDECLARED where some admit it.
    """
    for name, outcome in held.outcomes.items():
        if outcome.status != "ran" or outcome.violations:
            found = judge(problem, outcome).verdict
            return Judgement(replace(found, detail=f"{name}: {found.detail}"))
    stable = bool(port.get("stable", False))

    def under(numerics: Numerics) -> tuple[Verdict, ...]:
        def declared(problem: Problem) -> Problem:
            layer, _ = port.definition(problem.layer)
            return problem.but(layer=layer, numerics=numerics)

        return tuple(
            verdict
            for agreement in held.agreements
            for verdict in agree(agreement, held.outcomes, declared, stable=stable)
        )

    verdicts = under(problem.numerics)
    verdict = severest(verdicts)
    if verdict.kind is not Kind.WRONG:
        return Judgement(verdict, _of_each_tap(verdicts))
    fitting = tuple(
        name
        for name, numerics in (others or {}).items()
        if not severest(under(numerics)).kind.failed
    )
    if fitting:
        detail = f"fits {fitting[0]}; {verdict.detail}"
        verdict = replace(verdict, kind=Kind.UNDECLARED, detail=detail)
    return Judgement(verdict, _of_each_tap(verdicts), fitting=fitting)


def _of_each_tap(verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
    """The severest verdict of each tap."""
    taps = dict.fromkeys(verdict.tap for verdict in verdicts)
    return tuple(
        severest(tuple(verdict for verdict in verdicts if verdict.tap == tap))
        for tap in taps
    )

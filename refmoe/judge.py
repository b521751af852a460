"""Trace + Outcome -> Verdict. Pure: it launches nothing of the port."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from oracle.numerics import Numerics
from refmoe import reference
from refmoe.evidence import Evidence, evidence
from refmoe.judged import SELECTIONS, Call, Oracle, judged
from refmoe.problem import Problem
from refmoe.stages import Stages
from refmoe.vacuity import known
from refmoe.verdict import Kind, Outcome, Verdict, severest

__all__ = ["SELECTIONS", "Judgement", "explanations", "judge"]

_STATUS = {
    "missing": Kind.MISSING,
    "unsupported": Kind.UNSUPPORTED,
    "refused": Kind.REFUSED,
    "crashed": Kind.CRASHED,
    "hung": Kind.HUNG,
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict of a call, those of its results, and where it first diverged.

    `fitting` holds the declarations that an UNDECLARED result fits, each with how far
    it explains the result.
    """

    verdict: Verdict
    results: tuple[Verdict, ...] = ()
    first: Verdict | None = None
    fitting: Mapping[str, Evidence] = field(default_factory=dict)


def judge(
    problem: Problem,
    outcome: Outcome,
    *,
    stable: bool = False,
    signed_zeros: bool = False,
    others: Mapping[str, Numerics] | None = None,
    oracle: Oracle = reference.trace,
) -> Judgement:
    """What the outcome is worth.

    A guard's violation is WRONG. What lies outside the problem's numerics is tried
    under each of `others` (name -> Numerics) and is UNDECLARED where some explain it,
    else WRONG. A pass in a bound that admits zeros is UNDECIDED; if it declares
    functions worse than any known one, it is VACUOUS where known ones explain it too,
    else WRONG. `stable`: the order of rows inside an expert is part of the contract;
    `signed_zeros`: so are signs of zeros.
    """
    if outcome.status != "ran":
        kind = _STATUS[outcome.status]
        return Judgement(Verdict(kind, detail=outcome.log))
    if outcome.violations:
        detail = "; ".join(outcome.violations)
        return Judgement(Verdict(Kind.WRONG, detail=detail))
    call = Call(problem, outcome, stable, signed_zeros, oracle)
    found = _under(call)
    if found.verdict.kind is Kind.VACUOUS:
        found = _held(call, found)
    if found.verdict.kind is not Kind.WRONG or not others:
        return found
    fitting = {
        name: proof
        for name, proof in _explanations(call, others).items()
        if proof.explains
    }
    if not fitting:
        return found
    detail = f"fits {next(iter(fitting))}"
    verdict = replace(found.verdict, kind=Kind.UNDECLARED, detail=detail)
    return replace(found, verdict=verdict, fitting=fitting)


def explanations(
    problem: Problem,
    outcome: Outcome,
    others: Mapping[str, Numerics],
    *,
    stable: bool = False,
    signed_zeros: bool = False,
    oracle: Oracle = reference.trace,
) -> dict[str, Evidence]:
    """The evidence for each of `others` that the outcome fits without a stretch."""
    return _explanations(Call(problem, outcome, stable, signed_zeros, oracle), others)


def _explanations(call: Call, others: Mapping[str, Numerics]) -> dict[str, Evidence]:
    explained = (Kind.BIT_EQUAL, Kind.WITHIN, Kind.AMBIGUOUS)
    return {
        name: evidence(call, numerics)
        for name, numerics in others.items()
        if _under(call.under(numerics)).verdict.kind in explained
    }


def _held(call: Call, found: Judgement) -> Judgement:
    """A vacuous pass, judged again with functions as bad as known ones are at most."""
    again = _under(call.under(known(call.numerics)))
    if not again.verdict.kind.failed:
        return found
    detail = f"{found.verdict.detail}; no known elementary functions err as much"
    return replace(again, verdict=replace(again.verdict, detail=detail))


def _under(call: Call) -> Judgement:
    """The judgement under the problem's own numerics alone."""
    stages = Stages(call.problem, call.outcome.taps, call.oracle, call.trace())
    stages.judge()
    results = judged(call, stages.trace, stages.given)
    first = next((stage for stage in stages.verdicts if stage.kind.failed), None)
    # A result may hide what an exposed stage shows.
    verdict = severest((*results, *stages.verdicts))
    return Judgement(verdict, results, first)

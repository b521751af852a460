"""Trace + Outcome -> Verdict. Pure: it launches nothing of the port."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from oracle.numerics import Numerics
from refmoe import reference
from refmoe.declarations import neighbours
from refmoe.evidence import Evidence, evidence
from refmoe.judged import SELECTIONS, Call, Oracle, judged
from refmoe.problem import Problem
from refmoe.results import located
from refmoe.stages import Stages
from refmoe.vacuity import known
from refmoe.verdict import Kind, Outcome, Verdict, severest

__all__ = ["SELECTIONS", "Judgement", "consistent", "judge"]

_STATUS = {
    "missing": Kind.MISSING,
    "unsupported": Kind.UNSUPPORTED,
    "refused": Kind.REFUSED,
    "crashed": Kind.CRASHED,
    "hung": Kind.HUNG,
}
_EXPLAINED = (Kind.BIT_EQUAL, Kind.WITHIN, Kind.AMBIGUOUS)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict of a call, those of its results, and where it first diverged.

    `fitting` names the declarations that an UNDECLARED result fits, `proofs` tells how
    far each explains it.
    """

    verdict: Verdict
    results: tuple[Verdict, ...] = ()
    first: Verdict | None = None
    fitting: tuple[str, ...] = ()
    proofs: Mapping[str, Evidence] = field(default_factory=dict)


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
    under each of `others` (name -> Numerics) and is UNDECLARED where some explain it
    and no near formula does in the declared arithmetic, else WRONG. A pass in a bound
    that admits zeros is UNDECIDED; if it declares functions worse than any known one,
    it is VACUOUS where known ones explain it too, else WRONG. `stable`: the order of
    rows inside an expert is part of the contract; `signed_zeros`: so are their signs.
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
    proofs = {
        name: proof
        for name, (kind, proof) in _tried(call, others).items()
        if kind in _EXPLAINED and proof.explains
    }
    if not proofs:
        return found
    for name, layer in neighbours(problem.layer).items():
        near = replace(call, problem=problem.but(layer=layer))
        if _under(near).verdict.kind in _EXPLAINED:
            detail = f"as {name} computes in the declared arithmetic"
            return replace(found, verdict=replace(found.verdict, detail=detail))
    fitting = tuple(proofs)
    said = f"; {found.verdict.detail}" if found.verdict.detail else ""
    verdict = replace(
        found.verdict, kind=Kind.UNDECLARED, detail=f"fits {fitting[0]}{said}"
    )
    return replace(found, verdict=verdict, fitting=fitting, proofs=proofs)


def consistent(
    problem: Problem,
    outcome: Outcome,
    others: Mapping[str, Numerics],
    *,
    stable: bool = False,
    signed_zeros: bool = False,
    oracle: Oracle = reference.trace,
) -> dict[str, Evidence]:
    """Those of `others` that an outcome inside its declaration does not contradict."""
    call = Call(problem, outcome, stable, signed_zeros, oracle)
    tried = _tried(call, others)
    return {name: proof for name, (kind, proof) in tried.items() if not kind.failed}


def _tried(
    call: Call, others: Mapping[str, Numerics]
) -> dict[str, tuple[Kind, Evidence]]:
    """The verdict under each of `others`, and the evidence for it."""
    kinds = {
        name: _under(call.under(numerics)).verdict.kind
        for name, numerics in others.items()
    }
    return {
        name: (kind, Evidence() if kind.failed else evidence(call, others[name]))
        for name, kind in kinds.items()
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
    stages = Stages(call.problem, call.outcome.taps, call.oracle)
    stages.judge()
    results = tuple(
        located(verdict, call.problem)
        for verdict in judged(call, stages.trace, stages.given)
    )
    first = next((stage for stage in stages.verdicts if stage.kind.failed), None)
    # A result may hide what an exposed stage shows.
    verdict = severest((*results, *stages.verdicts))
    return Judgement(verdict, results, first)

"""Trace + Outcome -> Verdict. Pure: it launches nothing of the port."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from oracle.numerics import Numerics
from oracle.trace import Trace
from refmoe import reference
from refmoe.compare import compare, outside, selection
from refmoe.problem import Problem
from refmoe.protocol import OPS
from refmoe.stages import stage_verdicts
from refmoe.verdict import Kind, Outcome, Verdict, severest

#: Selections of one token that are tried before it counts as undecided.
SELECTIONS = 64

_STATUS = {
    "missing": Kind.MISSING,
    "unsupported": Kind.UNSUPPORTED,
    "refused": Kind.REFUSED,
    "crashed": Kind.CRASHED,
    "hung": Kind.HUNG,
}

Oracle = Callable[..., Trace]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict of a call, those of its results, and where it first diverged.

    `fitting` names the declarations that an UNDECLARED result fits.
    """

    verdict: Verdict
    results: tuple[Verdict, ...] = ()
    first: Verdict | None = None
    fitting: tuple[str, ...] = ()


def judge(
    problem: Problem,
    outcome: Outcome,
    *,
    stable: bool = False,
    others: Mapping[str, Numerics] | None = None,
    oracle: Oracle = reference.trace,
) -> Judgement:
    """What the outcome is worth.

    A guard's violation is WRONG. What lies outside the problem's numerics is tried
    under each of `others` (name -> Numerics) and is UNDECLARED where some fit, else
    WRONG. `stable`: the order of rows inside an expert is part of the contract.
    """
    if outcome.status != "ran":
        kind = _STATUS[outcome.status]
        return Judgement(Verdict(kind, detail=outcome.log))
    if outcome.violations:
        detail = "; ".join(outcome.violations)
        return Judgement(Verdict(Kind.WRONG, detail=detail))
    found = _under(problem, outcome, stable, oracle)
    if found.verdict.kind is not Kind.WRONG or not others:
        return found
    fitting = tuple(
        name
        for name, numerics in others.items()
        if _fits(_under(problem.but(numerics=numerics), outcome, stable, oracle))
    )
    if not fitting:
        return found
    verdict = replace(found.verdict, kind=Kind.UNDECLARED, detail=f"fits {fitting[0]}")
    return replace(found, verdict=verdict, fitting=fitting)


def _fits(judgement: Judgement) -> bool:
    """Whether an undeclared arithmetic explains the result without being stretched."""
    explained = (Kind.BIT_EQUAL, Kind.WITHIN, Kind.AMBIGUOUS)
    return judgement.verdict.kind in explained


def _under(
    problem: Problem, outcome: Outcome, stable: bool, oracle: Oracle
) -> Judgement:
    """The judgement under the problem's own numerics alone."""
    trace = oracle(problem)
    results = _results(problem, outcome, trace, stable, oracle)
    stages = stage_verdicts(problem, outcome.taps, trace, oracle)
    first = next((stage for stage in stages if stage.kind.failed), None)
    verdict = severest(results)
    if first is not None and not verdict.kind.failed:
        # The result hides what an exposed stage shows.
        verdict = first
    return Judgement(verdict, results, first)


def _results(
    problem: Problem, outcome: Outcome, trace: Trace, stable: bool, oracle: Oracle
) -> tuple[Verdict, ...]:
    got, op = outcome.outputs, problem.case.op
    if op == "route":
        return _route(problem, got["ids"], got["weights"], trace, oracle)
    if op == "permute":
        return _permute(got["rows"], got["offsets"], trace, stable)
    if op == "moe":
        return (_moe(problem, got["out"], trace, oracle),)
    names = [field.name for field in OPS[op].results if field.name in trace]
    return tuple(
        compare(name, trace[name], got[name], problem.numerics)
        if name in got
        else Verdict(Kind.WRONG, name, detail=f"the call returned no {name}")
        for name in names
    )


def _route(
    problem: Problem,
    ids: torch.Tensor,
    weights: torch.Tensor,
    trace: Trace,
    oracle: Oracle,
) -> tuple[Verdict, ...]:
    """ids as an admissible set per token in any order; the weights of those ids."""
    choice = selection("ids", trace["ids"], ids)
    admissible = trace["ids"].admissible
    fine = torch.ones(len(ids), dtype=torch.bool)
    if admissible is not None:
        fine = admissible.contains(ids)
    rows = fine.nonzero().reshape(-1)
    again = oracle(problem, rows=rows, ids=ids[rows].long())
    verdict = compare("weights", again["weights"], weights[rows], problem.numerics)
    if verdict.index and len(rows) < len(ids):
        verdict = replace(
            verdict, index=(int(rows[verdict.index[0]]), *verdict.index[1:])
        )
    return choice, verdict


def _permute(
    rows: torch.Tensor, offsets: torch.Tensor, trace: Trace, stable: bool
) -> tuple[Verdict, ...]:
    """Offsets exactly; rows up to the order inside an expert, unless it is stable."""
    edges = compare("offsets", trace["offsets"], offsets, Numerics())
    rows = rows.long()
    if not stable:
        counts = trace["offsets"].value.diff()
        owner = torch.arange(len(counts)).repeat_interleave(counts)
        by_slot = torch.sort(rows, stable=True).indices
        rows = rows[by_slot[torch.sort(owner[by_slot], stable=True).indices]]
    return edges, compare("rows", trace["rows"], rows, Numerics())


def _moe(problem: Problem, out: torch.Tensor, trace: Trace, oracle: Oracle) -> Verdict:
    """The output; tokens with several admissible selections may match any of them."""
    verdict = compare("out", trace["out"], out, problem.numerics)
    admissible = trace["ids"].admissible
    if verdict.kind is not Kind.WRONG or admissible is None:
        return verdict
    bad = outside(trace["out"], out, problem.numerics)
    open_ = (bad & admissible.ambiguous).nonzero().reshape(-1).tolist()
    undecided, matched = [], []
    for token in open_:
        choices = admissible.selections(token, SELECTIONS)
        if choices is None:
            undecided.append(token)
            continue
        rows = torch.full((len(choices),), token)
        again = oracle(problem, rows=rows, ids=choices)["out"]
        repeated = out[token].expand(len(choices), -1)
        if not bool(outside(again, repeated, problem.numerics).all()):
            matched.append(token)
    if not matched and not undecided:
        return verdict
    rest = torch.ones(len(out), dtype=torch.bool)
    rest[matched + undecided] = False
    rows = rest.nonzero().reshape(-1)
    left = compare(
        "out", trace["out"].map(lambda t: t[rows]), out[rows], problem.numerics
    )
    if left.kind is Kind.WRONG:
        return replace(left, index=(int(rows[left.index[0]]), *left.index[1:]))
    kind = Kind.UNDECIDED if undecided else Kind.AMBIGUOUS
    detail = f"{len(matched)} tokens match another admissible selection"
    if undecided:
        detail += f"; {len(undecided)} have more than {SELECTIONS} of them"
    return replace(left, kind=kind, detail=detail)

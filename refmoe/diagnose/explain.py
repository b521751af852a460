"""Which hypotheses explain what a port returned, the best first."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from refmoe.diagnose.hypothesis import Hypothesis
from refmoe.diagnose.oracle import traced
from refmoe.judge import judge
from refmoe.problem import Problem
from refmoe.verdict import Kind, Outcome

_FINE = (Kind.BIT_EQUAL, Kind.WITHIN, Kind.AMBIGUOUS)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One call: the problem as the port declares it, what came, whether it is right.

    `stable`: the order of rows inside an expert is part of the port's contract.
    """

    problem: Problem
    outcome: Outcome
    right: bool = False
    stable: bool = False


@dataclass(frozen=True, slots=True)
class Cause:
    """A hypothesis that explains every wrong call it was tried on.

    `calls` is how many those are, `exact` the share that it predicts bit for bit,
    `elsewhere` how many right calls should have been wrong by it: the mistake is then
    one of some sizes only, or another.
    """

    name: str
    about: str
    calls: int
    exact: float
    elsewhere: int = 0

    def __str__(self) -> str:
        plural = "" if self.calls == 1 else "s"
        notes = f"{self.name}: explains {self.calls} call{plural}"
        if self.exact:
            notes += f", {self.exact:.0%} bit for bit"
        if self.elsewhere:
            notes += f", though {self.elsewhere} right ones do without it"
        return f"{self.about} ({notes})"


def explain(
    evidence: Sequence[Evidence],
    hypotheses: Iterable[Hypothesis],
    *,
    seconds: float = math.inf,
) -> list[Cause]:
    """The hypotheses under which every wrong call is right, the best first.

    Those that contradict no right call come first, then those that predict more calls
    bit for bit; among equals the order of `hypotheses` decides, the likeliest first.
    After `seconds` no further hypothesis is tried.
    """
    causes, deadline = [], time.monotonic() + seconds
    for hypothesis in hypotheses:
        if time.monotonic() >= deadline:
            break
        cause = _tried(hypothesis, evidence)
        if cause is not None:
            causes.append(cause)
    return sorted(causes, key=lambda cause: (cause.elsewhere, -cause.exact))


def _tried(hypothesis: Hypothesis, evidence: Sequence[Evidence]) -> Cause | None:
    calls, exact, elsewhere = 0, 0, 0
    for item in sorted(evidence, key=lambda item: item.right):
        kind = _verdict(hypothesis, item)
        if item.right:
            elsewhere += kind is None
        elif kind is None:
            return None
        else:
            calls += 1
            exact += kind is Kind.BIT_EQUAL
    if not calls:
        return None
    share = exact / calls
    return Cause(hypothesis.name, hypothesis.about, calls, share, elsewhere)


def _verdict(hypothesis: Hypothesis, item: Evidence) -> Kind | None:
    """What the call is worth under the hypothesis; None if that contradicts it."""
    problem = item.problem
    if not hypothesis.suits(problem.case.op) or item.outcome.status != "ran":
        return None
    try:
        if hypothesis.change is not None:
            changed = hypothesis.change(problem)
            if changed is None:
                # It says nothing of this call, which must then be right.
                return Kind.BIT_EQUAL if item.right else None
            problem = changed
        oracle = partial(traced, hypothesis, item.problem)
        outcome = Outcome("ran", item.outcome.outputs)
        found = judge(problem, outcome, stable=item.stable, oracle=oracle)
        kind = found.verdict.kind
    except Exception:
        # What makes no sense of this layer explains nothing, and costs no run.
        return None
    return kind if kind in _FINE else None

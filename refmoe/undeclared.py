"""One arithmetic for all cases: what may explain a port that strays from its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from oracle.numerics import Numerics
from oracle.spec import Layer
from refmoe.case import Case
from refmoe.evidence import Evidence
from refmoe.judge import Judgement, consistent
from refmoe.port import Port
from refmoe.problem import Problem
from refmoe.verdict import Kind, Outcome

#: Cases inside the declaration that an arithmetic must explain as well.
_TRIALS = 8


@dataclass(frozen=True, slots=True)
class Trial:
    """One launch that can be repeated, and what the port declares for it."""

    port: Port
    case: Case
    layer: Layer
    numerics: Numerics
    tactic: Any


@dataclass(slots=True)
class Search:
    """The evidence on one op of one port, over all its cases.

    A mistake that is small in one case lies inside some wider arithmetic's bound. It is
    told from that arithmetic by many cases: the elements that stray are too few, or a
    case inside the declaration contradicts it.
    """

    proofs: dict[str, Evidence] = field(default_factory=dict)
    passed: list[Trial] = field(default_factory=list)

    def note(self, judgement: Judgement, trial: Trial) -> None:
        """Remember what a case says."""
        self._add(judgement.proofs)
        passed = judgement.verdict.kind in (Kind.BIT_EQUAL, Kind.WITHIN)
        if passed and len(self.passed) < _TRIALS:
            self.passed.append(trial)

    def left(
        self,
        open_: Mapping[str, Numerics],
        again: Callable[[Trial], tuple[Problem, Outcome]],
    ) -> dict[str, Numerics]:
        """Those of the `open_` arithmetics that explain the cases that passed, too.

        `again` repeats a trial; each is repeated once.
        """
        left = dict(open_)
        while self.passed and left:
            trial = self.passed.pop()
            problem, outcome = again(trial)
            if outcome.status != "ran" or outcome.violations:
                continue
            kept = consistent(problem, outcome, left, **trial.port.contract)
            self._add(kept)
            left = {name: left[name] for name in kept}
        return {
            name: numerics
            for name, numerics in left.items()
            if self.proofs.get(name, Evidence()).explains
        }

    def _add(self, proofs: Mapping[str, Evidence]) -> None:
        for name, proof in proofs.items():
            self.proofs[name] = self.proofs.get(name, Evidence()) + proof

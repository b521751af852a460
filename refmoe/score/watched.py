"""A runner that keeps what guards say apart from what was computed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from refmoe.case import Case
from refmoe.laws import Held, Law
from refmoe.port import Port
from refmoe.problem import Problem
from refmoe.protocol import OPS
from refmoe.verdict import Outcome
from refmoe.worker.runner import InProcess, Runner


@dataclass(slots=True)
class Watched:
    """Notes violations, and hands on complete results as if there were none.

    A judge that stops at a guard's sentence never says whether the values show the
    mistake too.
    """

    inner: Runner = field(default_factory=InProcess)
    said: list[str] = field(default_factory=list)

    def announce(self, port: Port, case: Case) -> None:
        """See `Runner.announce`."""
        self.inner.announce(port, case)

    def run(self, port: Port, problem: Problem, tactic: Any = None) -> Outcome:
        """See `Runner.run`."""
        outcome = self.inner.run(port, problem, tactic)
        self.said += outcome.violations
        op = OPS[problem.case.op]
        if len(outcome.outputs) < len(op.results) - op.optional:
            return outcome
        return replace(outcome, violations=())

    def hold(self, law: Law, port: Port, problem: Problem) -> Held:
        """See `Runner.hold`; a launch that violates anything ends the law."""
        held = self.inner.hold(law, port, problem)
        for outcome in held.outcomes.values():
            self.said += outcome.violations
        return held

    def distrust(self, port: Port) -> None:
        """See `Runner.distrust`."""
        self.inner.distrust(port)

    def heard(self) -> tuple[str, ...]:
        """What was said since the last time."""
        said, self.said = tuple(self.said), []
        return said

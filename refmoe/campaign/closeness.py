"""How far what a port returned lies from the oracle's values, whatever it declares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from refmoe import reference
from refmoe.case import Case
from refmoe.laws import Held, Law
from refmoe.port import Port
from refmoe.problem import Problem
from refmoe.results import as_bytes, expected
from refmoe.verdict import Outcome
from refmoe.worker.runner import Runner


@dataclass(slots=True)
class Heard:
    """A runner that remembers the last outcome."""

    runner: Runner
    outcome: Outcome | None = None

    def announce(self, port: Port, case: Case) -> None:
        """See `Runner`."""
        self.runner.announce(port, case)

    def run(self, port: Port, problem: Problem, tactic: Any = None) -> Outcome:
        """See `Runner`."""
        self.outcome = self.runner.run(port, problem, tactic)
        return self.outcome

    def hold(self, law: Law, port: Port, problem: Problem) -> Held:
        """See `Runner`."""
        return self.runner.hold(law, port, problem)

    def distrust(self, port: Port) -> None:
        """See `Runner`."""
        self.runner.distrust(port)


def distance(problem: Problem, outcome: Outcome) -> float | None:
    """Error of the worst result: total over total magnitude, or unequal integers.

    Measured against the oracle in the problem's own layer and arithmetic; inf where a
    value is not finite and the oracle's is. None where nothing was returned.
    """
    if outcome.status != "ran" or outcome.violations:
        return None
    truth, wanted = reference.trace(problem), expected(problem)
    found = [
        _between(wanted[name].of(got).cpu(), truth[name].value.cpu())
        for name, got in outcome.outputs.items()
        if name in truth and got.shape == wanted[name].shape
    ]
    return max(found, default=None)


def _between(got: torch.Tensor, want: torch.Tensor) -> float:
    got = as_bytes(got)
    if not want.numel() or got.shape != want.shape:
        return 0.0 if got.shape == want.shape else math.inf
    if not got.is_floating_point() or not want.is_floating_point():
        return float(
            (got.to(torch.int64) != as_bytes(want).to(torch.int64)).double().mean()
        )
    got, usual = got.double(), want.isfinite()
    error = (got - want)[usual].abs().sum()
    size = want[usual].abs().sum()
    if not error.isfinite():
        return math.inf
    return float(error / size) if size else float(error)

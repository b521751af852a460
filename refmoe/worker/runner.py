"""What runs ports: this process, or workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from refmoe.case import Case
from refmoe.guard import Guards
from refmoe.laws import Held, Law, launched
from refmoe.port import Port
from refmoe.problem import Problem
from refmoe.runner import run
from refmoe.verdict import Outcome

#: Cases of a plan that are announced before their turn.
AHEAD = 8
T = TypeVar("T")


class Runner(Protocol):
    """How a pipeline has ports run."""

    def announce(self, port: Port, case: Case) -> None:
        """Say that the case's own problem will be run soon, with every tactic."""

    def run(self, port: Port, problem: Problem, tactic: Any = None) -> Outcome:
        """What the port does with the problem."""

    def hold(self, law: Law, port: Port, problem: Problem) -> Held:
        """A law's launches on the port, and what must agree among them."""

    def distrust(self, port: Port) -> None:
        """Say that the port failed: what it left in its process is no one else's."""


@dataclass(frozen=True, slots=True)
class InProcess:
    """Runs ports in this process: fast, and at the mercy of what they do to it."""

    guards: Guards = field(default_factory=Guards)

    def announce(self, port: Port, case: Case) -> None:
        """Nothing runs ahead in one process."""

    def run(self, port: Port, problem: Problem, tactic: Any = None) -> Outcome:
        """See `refmoe.runner.run`."""
        return run(port, problem, tactic, guards=self.guards)

    def hold(self, law: Law, port: Port, problem: Problem) -> Held:
        """See `refmoe.laws.launched`."""
        return launched(law, port, problem)

    def distrust(self, port: Port) -> None:
        """There is no other process to go to."""


def announced(
    plan: Iterable[tuple[Port, T, Case]], runner: Runner
) -> Iterator[tuple[Port, T, Case]]:
    """The plan as it is; what comes next in it is announced to the runner."""
    whole = list(plan)
    for number, item in enumerate(whole):
        for port, _, case in whole[number : number + AHEAD]:
            runner.announce(port, case)
        yield item

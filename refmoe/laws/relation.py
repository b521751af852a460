"""Related launches of a port, and which of their results must agree."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch

from refmoe.case import Case
from refmoe.port import Port
from refmoe.problem import Problem
from refmoe.verdict import Outcome


@dataclass(frozen=True, eq=False, slots=True)
class Launch:
    """One call of the port: its name within the law, and its problem.

    Launches with the same `memory` find their tensors at the same addresses, each with
    the values of its own problem; the tensors of all others live on beside them.
    `captured` is a problem whose call is captured in a CUDA graph; the launch replays
    it on the values of `problem`.
    """

    name: str
    problem: Problem
    tactic: Any = None
    memory: str = ""
    captured: Problem | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Side:
    """One side of an agreement: the results of a launch, or of several added up.

    Shapes: rows: i64[n], the rows that count (None: all); columns: the first ones that
    count (None: all); numbers: i64[E], what the other side calls each id.

    `bounds` are the problems whose bounds hold, where those of the launches do not, and
    `stored` the rounding points that are then in the layer's own type; `tap` is what
    the other side calls the only result, where it has another name.
    """

    launches: tuple[Launch, ...]
    rows: torch.Tensor | None = None
    columns: int | None = None
    numbers: torch.Tensor | None = None
    bounds: tuple[Problem, ...] = ()
    stored: tuple[str, ...] = ()
    tap: str = ""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems that the results are bounded by."""
        return self.bounds or tuple(launch.problem for launch in self.launches)

    def __str__(self) -> str:
        return " + ".join(launch.name for launch in self.launches)


@dataclass(frozen=True, eq=False, slots=True)
class Agreement:
    """Two sides that must agree, as far as the arithmetic of both allows or to the bit.

    `bits` is for what a port declares; a declaration that does not hold is WRONG even
    where every value is inside its bounds.
    """

    first: Side
    second: Side
    bits: bool = False


#: Yields launches, gets their outcomes, returns what must agree.
Steps = Generator[Launch, Outcome, list[Agreement]]


@dataclass(frozen=True, slots=True)
class Law:
    """A relation between launches that holds whatever the right result is.

    `steps` runs where the port is and again, on the recorded outcomes, where they are
    judged: it depends on its arguments and the outcomes alone. `unfit` says why the law
    has nothing to say about a case of its `ops` (none named: all) on a port. `catches`
    names an entry of the gallery that no other law catches, `sizes` T, H and I of the
    cases that a verification runs.
    """

    name: str
    about: str
    ops: tuple[str, ...]
    steps: Callable[[Problem, Port], Steps]
    unfit: Callable[[Case, Port], str | None]
    catches: str
    sizes: tuple[tuple[int, int, int], ...]

    def objection(self, case: Case, port: Port) -> str | None:
        """Why the law has nothing to say about a case on a port; None where it has."""
        if self.ops and case.op not in self.ops:
            return f"law {self.name} is about {', '.join(self.ops)}, not {case.op}"
        return self.unfit(case, port)


def each(*launches: Launch) -> Generator[Launch, Outcome, list[Outcome]]:
    """The launches one after the other; returns their outcomes."""
    outcomes = []
    for launch in launches:
        outcomes.append((yield launch))
    return outcomes


def drive(
    steps: Steps, launched: Callable[[Launch], Outcome]
) -> tuple[dict[str, Outcome], list[Agreement]]:
    """Every outcome by the launch's name, and what must agree.

    Stops at the first launch that did not run: there is nothing to compare then.
    """
    outcomes: dict[str, Outcome] = {}
    try:
        launch = next(steps)
        while True:
            outcome = launched(launch)
            outcomes[launch.name] = outcome
            if outcome.status != "ran" or outcome.violations:
                steps.close()
                return outcomes, []
            launch = steps.send(outcome)
    except StopIteration as done:
        return outcomes, done.value

"""A request to a worker, and what has come of it so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from refmoe.problem import Problem
from refmoe.verdict import Outcome
from refmoe.worker.channel import Frame


class PortFailed(Exception):
    """A port did not say what it declares; `outcome` is what it did instead."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.log)
        self.outcome = outcome


@dataclass(slots=True, eq=False)
class Ticket:
    """One request: what was asked, what the worker is at, what it has answered."""

    target: str
    request: Frame
    op: str = ""
    problem: Problem | None = None
    slot: int | None = None
    #: Name and kind of the step that has begun, and since when.
    step: tuple[str, str] | None = None
    since: float = 0.0
    #: What the port says of the case, its tactics, each launch's outcome and inputs.
    facts: Frame | None = None
    tactics: list[str | None] | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    inputs: dict[str, dict[str, int]] = field(default_factory=dict)
    #: Names of launches that need not run again, and that were handed on.
    settled: set[str] = field(default_factory=set)
    handed: set[str] = field(default_factory=set)
    answer: Any = None
    #: The exception that the request met: its type and its text.
    error: tuple[str, str] | None = None
    #: What became of the worker, where no launch is to blame.
    failure: Outcome | None = None
    done: bool = False
    #: Whether everything in it has been handed on.
    read: bool = False
    #: Times that a worker ended before it began.
    lost: int = 0

    def reset(self) -> None:
        """As if nothing had come of it."""
        self.step, self.slot, self.done = None, None, False
        self.outcomes, self.inputs = {}, {}
        self.settled, self.handed = set(), set()
        self.request["done"] = []

    @property
    def without(self) -> Outcome:
        """What a missing answer amounts to."""
        if self.failure is not None:
            return self.failure
        log = ": ".join(self.error or ("RuntimeError", "the worker gave no answer"))
        return Outcome("crashed", log=log)


#: What a stack shows of the suite itself.
_OURS = ("/refmoe/worker/", "/refmoe/runner.py", "<frozen runpy>")


def autopsy(output: str, sentence: str) -> str:
    """What a worker printed at its end, without what concerns no one, and the cause."""
    aborted = "Fatal Python error: Aborted"
    kept = [
        line
        for line in output.splitlines()
        if line.strip()
        and not line.startswith("Extension modules:")
        and not any(part in line for part in _OURS)
        # The judge itself aborts a worker to see where it stands.
        and (line != aborted or "SIGABRT" in sentence)
    ]
    return "\n".join([*kept, sentence])

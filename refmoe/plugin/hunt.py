"""Hypothesis looks for a case that fails, and makes it smaller."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
from hypothesis import HealthCheck, Verbosity, errors

from refmoe.case import Case
from refmoe.plan import Cell
from refmoe.port import Port
from refmoe.record import Record
from refmoe.strategies import cases
from refmoe.verdict import Kind
from refmoe.verify import Verifier

#: Launches that are spent on making a failing case smaller, and calls that may hang.
_LAUNCHES, _HANGS = 200, 5


class _Fails(Exception):
    """A case that fails; hypothesis looks for smaller ones."""


class Hunt:
    """A search over the cases of one op, the same for the same seed.

    Every case is launched once: a port that answers otherwise the second time is not
    hypothesis' business.
    """

    def __init__(
        self, verifier: Verifier, port: Port, op: str, fails: Callable[[Record], bool]
    ) -> None:
        self.verifier, self.port, self.op, self.fails = verifier, port, op, fails
        self.seen: dict[str, Record] = {}
        self.failing: list[Record] = []
        self.spent = 0

    def run(self, examples: int, seed: int, **narrowed: object) -> list[Record]:
        """The records of what passed, and of the smallest case that failed.

        `narrowed` says which models, formats and regimes are drawn.
        """
        strategy = cases(self.port, ops=[self.op], **narrowed)  # type: ignore[arg-type]

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(strategy)
        def search(case: Case) -> None:
            record = self._record(case)
            if record is not None and self.fails(record):
                self.failing.append(record)
                raise _Fails

        try:
            search()
        except (_Fails, errors.Flaky):
            pass
        passed = [r for r in self.seen.values() if r not in self.failing]
        # The last one that hypothesis tries is the smallest.
        return [*passed, *self.failing[-1:]]

    def _record(self, case: Case) -> Record | None:
        """What comes of a case; None once there is nothing left to spend."""
        line = str(case)
        if line in self.seen:
            return self.seen[line]
        hangs = sum(record.kind is Kind.HUNG for record in self.failing)
        if self.failing:
            self.spent += 1
            if self.spent > _LAUNCHES or hangs >= _HANGS:
                return None
        cell = Cell(case.op, case.model or case.format or "-", case.regime, "hunt")
        record = self.verifier.check(self.port, case, cell)
        self.seen[line] = self.verifier.settled(record)
        return self.seen[line]

"""A port that has run elsewhere: its answers lie beside the problems in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oracle.numerics import Numerics
from refmoe.case import Case
from refmoe.exchange.files import answer, read
from refmoe.laws import Held, Law
from refmoe.port import Port
from refmoe.problem import Problem
from refmoe.protocol import OPS
from refmoe.verdict import Outcome


def port(name: str, numerics: Numerics, *, stable: bool = False) -> Port:
    """A port of every op, none of which is ever called here."""

    def elsewhere(*arguments: Any) -> Any:
        raise NotImplementedError(f"{name} holds answers and runs nothing")

    attributes = {"stable": stable, "device": "cpu"}
    return Port(name, dict.fromkeys(OPS, elsewhere), numerics, True, attributes)


@dataclass(frozen=True, slots=True)
class Answers:
    """Runs nothing: what came is read from the file that answers the problem's."""

    #: The problem's file of each case line.
    paths: Mapping[str, Path]

    def announce(self, port: Port, case: Case) -> None:
        """Everything has run already."""

    def run(self, port: Port, problem: Problem, tactic: Any = None) -> Outcome:
        """See `refmoe.exchange.files.read`."""
        return read(answer(self.paths[str(problem.case)]), problem)

    def hold(self, law: Law, port: Port, problem: Problem) -> Held:
        """A law needs launches that no folder holds."""
        raise NotImplementedError(f"law {law.name} needs a port that runs")

    def distrust(self, port: Port) -> None:
        """There is no process to distrust."""

"""Mistakes and honest ports under other suites' rules and under ours, side by side.

``python -m refmoe.gallery.table [REGIME ...]`` prints it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from oracle.numerics import Numerics
from oracle.spec import Layer
from oracle.trace import Trace
from refmoe import reference
from refmoe.case import Case
from refmoe.gallery import entries
from refmoe.gallery.entry import Entry
from refmoe.gallery.rules import RULES
from refmoe.judge import judge
from refmoe.loading import port_of
from refmoe.plan import DEFAULT_MODELS, Cell, cases
from refmoe.problem import Problem, build
from refmoe.runner import run
from refmoe.verdict import Outcome

OURS = "derived bounds"


@dataclass(frozen=True)
class Row:
    """One rule: mistakes that it kills, honest ports that it fails, and of how many."""

    rule: str
    source: str
    killed: int
    mistakes: int
    failed: int
    honest: int


def side_by_side(
    regimes: Sequence[str] = ("randn",),
    count: int = 2,
    *,
    mistakes: Sequence[Entry] | None = None,
    honest: Sequence[Entry] | None = None,
) -> list[Row]:
    """How each rule judges the same outputs of the whole layer, `count` cases a model.

    A crash, a refusal or a violated contract counts as seen by every rule.
    """
    mistakes = list(entries("mistake").values()) if mistakes is None else mistakes
    honest = list(entries("honest").values()) if honest is None else honest
    return rows(
        [rejecting(entry, regimes, count) for entry in mistakes],
        [rejecting(entry, regimes, count) for entry in honest],
    )


def rows(killed: Sequence[set[str]], failed: Sequence[set[str]]) -> list[Row]:
    """A row for each rule, from the names of those that reject each port."""
    sources = {rule.name: rule.source for rule in RULES}
    return [
        Row(
            name, source,
            sum(name in names for names in killed), len(killed),
            sum(name in names for names in failed), len(failed),
        )
        for name, source in (sources | {OURS: "refmoe, judging `out` alone"}).items()
    ]  # fmt: skip


def rejecting(entry: Entry, regimes: Sequence[str], count: int) -> set[str]:
    """Names of the rules that reject the entry in at least one case."""
    found: set[str] = set()
    port = port_of(entry.port(), entry.name)
    for model in entry.models or DEFAULT_MODELS:
        for regime in regimes:
            for case in cases(Cell("moe", model, regime), count):
                layer, numerics = port.definition(case.layer)
                problem = _problem(case).but(layer=layer, numerics=numerics)
                outcome = run(port, problem)
                if outcome.status != "unsupported":
                    found |= _rejecting(problem, outcome)
    return found


def _rejecting(problem: Problem, outcome: Outcome) -> set[str]:
    got = outcome.outputs.get("out")
    if outcome.status != "ran" or outcome.violations or got is None:
        return {OURS, *(rule.name for rule in RULES)}
    alone = Outcome("ran", {"out": got})
    found = (
        {OURS} if judge(problem, alone, oracle=_oracle).verdict.kind.failed else set()
    )
    want, got = _oracle(problem)["out"].value, got.double()
    usual = want.isfinite()
    # None of the rules says what NaN and infinity are equal to: they must agree.
    same = torch.equal(want[~usual].nan_to_num(0.5), got[~usual].nan_to_num(0.5))
    want, got = want[usual], got[usual]
    return found | {
        rule.name for rule in RULES if not (same and rule.accepts(want, got))
    }


def _oracle(problem: Problem, **arguments: Any) -> Trace:
    """The oracle's trace; that of all rows from the beginning is kept."""
    part = {name: value for name, value in arguments.items() if value is not None}
    if not part.pop("given", None) and not part:
        return _trace(problem.case, problem.layer, problem.numerics)
    return reference.trace(problem, **arguments)


@lru_cache(maxsize=256)
def _trace(case: Case, layer: Layer, numerics: Numerics) -> Trace:
    return reference.trace(_problem(case).but(layer=layer, numerics=numerics))


@lru_cache(maxsize=64)
def _problem(case: Case) -> Problem:
    return build(case)


def printed(rows: Sequence[Row]) -> str:
    """The rows as a table of plain text."""
    lines = [f"{'rule':32} {'kills':>9} {'false':>7}  source"]
    for row in rows:
        kills, false = f"{row.killed}/{row.mistakes}", f"{row.failed}/{row.honest}"
        lines.append(f"{row.rule:32} {kills:>9} {false:>7}  {row.source}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(printed(side_by_side(sys.argv[1:] or ("randn",))))

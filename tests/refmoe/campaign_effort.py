"""Would a campaign find mistakes earlier if its effort went where it pays?

    python tests/refmoe/campaign_effort.py --every 3 --json FILE

Draws cases of each cell (op, regime) on the plain port and on every so many held
mistakes, and notes what each case showed until the mistake did. On these rows two ways
to spend effort are played many times: every op in turn with its regimes alike, as
campaigns do, and cells weighted by what was new in them (a verdict, a stage, a power of
two of error / bound) or came near the bound of late, none below a tenth of the mean.
Told is after how many cases each of them meets the mistakes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, errors

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from refmoe.case import Case
from refmoe.gallery import entries
from refmoe.gallery.plain import Plain
from refmoe.loading import port_of
from refmoe.port import Port
from refmoe.protocol import OPS
from refmoe.regimes import REGIMES
from refmoe.strategies import cases
from refmoe.verify import Verifier

Cell = tuple[str, str]
#: What a case showed: verdict, stage, binary order of error / bound.
Shown = tuple[str, str, int]
#: Cases drawn of each cell, and of one turn.
DEPTH, TURN = 30, 10
CELLS: tuple[Cell, ...] = tuple(
    (op, name)
    for op in OPS
    for name, regime in REGIMES.items()
    if not regime.suits or op in regime.suits
)
OF_OP = Counter(op for op, _ in CELLS)
#: A run that meets nothing for so long counts as this.
LONGEST = 20 * len(CELLS) * TURN


@dataclass
class Row:
    """What the cases of one cell showed, up to the first that failed."""

    shown: list[Shown] = field(default_factory=list)
    fails: int | None = None


class _Failed(Exception):
    """The mistake was met."""


def drawn(port: Port, cell: Cell, seed: int) -> Row:
    """The row of a port in a cell."""
    op, regime = cell
    row, verifier = Row(), Verifier()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=DEPTH, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    @hypothesis.given(cases(port, ops=[op], regimes=[regime], max_elements=1 << 14))
    def search(case: Case) -> None:
        record = verifier.settled(verifier.check(port, case))
        verdict = record.judgement.verdict
        order = math.frexp(verdict.ratio or 0.0)[1]
        row.shown.append((str(verdict.kind), verdict.tap, order))
        if record.kind.failed:
            # Hypothesis runs it once more.
            row.fails = len(row.shown) - 1 if row.fails is None else row.fails
            raise _Failed

    try:
        search()
    except (_Failed, errors.Flaky):
        del row.shown[(row.fails or 0) + 1 :]
    return row


def in_turn(cell: Cell, row: Row, taken: int) -> float:
    """Each op as often as any other, its regimes alike."""
    return 1.0 / OF_OP[cell[0]]


def by_yield(cell: Cell, row: Row, taken: int) -> float:
    """What was new or near the bound in the cell's last turn; unseen, all of it."""
    if not taken:
        return TURN
    until = min(taken, len(row.shown))
    since = max(0, until - TURN)
    new = set(row.shown[since:until]) - set(row.shown[:since])
    near = sum(order >= 0 for _, _, order in row.shown[since:until])
    return len(new) + near / TURN


Way = Callable[[Cell, Row, int], float]
WAYS: dict[str, Way] = {"in turn": in_turn, "by yield": by_yield}


def played(rows: dict[Cell, Row], way: Way, draw: random.Random) -> int:
    """Cases until the first failure, spent turn by turn; no cell is left out."""
    taken = [0] * len(CELLS)
    weights = [way(cell, rows[cell], 0) for cell in CELLS]
    spent = 0
    while spent < LONGEST:
        floor = sum(weights) / len(weights) / 10 or 1.0
        fair = [max(weight, floor) for weight in weights]
        (place,) = draw.choices(range(len(CELLS)), fair)
        cell = CELLS[place]
        fails = rows[cell].fails
        if fails is not None and taken[place] <= fails < taken[place] + TURN:
            return spent + fails - taken[place] + 1
        taken[place] += TURN
        spent += TURN
        weights[place] = way(cell, rows[cell], taken[place])
    return LONGEST


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=3, help="mistakes: one of so many")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--json", type=Path)
    known = parser.parse_args(arguments)
    torch.set_num_threads(1)
    honest = {cell: drawn(port_of(Plain(), "plain"), cell, 0) for cell in CELLS}
    found: dict[str, dict[str, float]] = {}
    unmet = []
    for name, entry in list(entries("mistake").items())[:: known.every]:
        port = port_of(entry.port(), name)
        own = {cell: drawn(port, cell, 0) for cell in CELLS if cell[0] == entry.op}
        if all(row.fails is None for row in own.values()):
            unmet.append(name)
            continue
        draw = random.Random(0)
        found[name] = {
            label: statistics.fmean(
                played({**honest, **own}, way, draw) for _ in range(known.runs)
            )
            for label, way in WAYS.items()
        }
        print(name, found[name], flush=True)
    told = {
        label: {
            "mean": statistics.fmean(one[label] for one in found.values()),
            "geometric mean": statistics.geometric_mean(
                one[label] for one in found.values()
            ),
            "earlier than the other way": sum(
                one[label] < min(v for k, v in one.items() if k != label)
                for one in found.values()
            ),
        }
        for label in WAYS
    }
    print(json.dumps(told, indent=1), f"{len(unmet)} mistakes were not met", sep="\n")
    if known.json:
        whole = {"cells": len(CELLS), "ways": told, "mistakes": found, "unmet": unmet}
        known.json.write_text(json.dumps(whole, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

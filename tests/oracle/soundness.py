"""How much of the GEMM bounds real arithmetic uses, over any number of outputs.

    python tests/oracle/soundness.py --elements 1e8 --processes 16 --json out.json

Every simulator meets every kind of data with fresh operands of varying depth until that
many output elements are done. Exits with 1 if a worst case was exceeded, a claim of
exactness was wrong, or a statistical bound failed more often than its probability
allows.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from oracle import bounds
from tests.oracle.simulators import KINDS, data, simulators

#: Outputs of one task, and the depths that tasks take in turn.
ROWS, WIDTH = 64, 64
DEPTHS = (32, 128, 384, 1024)
#: Ratios are counted by power of two down to 2^-31.
BINS = 32


@dataclass
class Row:
    """What was seen of one simulator on one kind of data."""

    simulator: str
    kind: str
    elements: int = 0
    taps: int = 0
    #: Largest error over worst, and over likely.
    worst: float = 0.0
    likely: float = 0.0
    exceeded: int = 0
    #: Taps in which any element exceeded its statistical bound, and how many may.
    likely_exceeded: int = 0
    likely_expected: float = 0.0
    exact: int = 0
    exact_differs: int = 0
    #: Elements with an error over worst in [2^-(i + 1), 2^-i); others are smaller.
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)

    def add(self, other: Row) -> None:
        """Take in what another task saw."""
        for name, value in asdict(other).items():
            mine = getattr(self, name)
            if name in ("worst", "likely"):
                setattr(self, name, max(mine, value))
            elif name == "histogram":
                self.histogram = [a + b for a, b in zip(mine, value, strict=True)]
            elif name not in ("simulator", "kind"):
                setattr(self, name, mine + value)

    @property
    def median(self) -> float:
        """The median ratio, to within its power of two; 0 below all of them."""
        seen = 0
        for i, count in enumerate(self.histogram):
            seen += count
            if 2 * seen >= self.elements:
                return 2.0 ** -(i + 1)
        return 0.0

    @property
    def sound(self) -> bool:
        """Whether all claims held; statistics within four standard deviations."""
        chance = self.likely_expected + 4.0 * math.sqrt(self.likely_expected)
        allowed = max(1.0, chance)
        failed = self.exceeded or self.exact_differs
        return not failed and self.likely_exceeded <= allowed


def measure(task: tuple[int, str, int]) -> Row:
    """Run one simulator once: task is (which, kind of data, seed)."""
    torch.set_num_threads(1)
    which, kind, seed = task
    simulator = list(simulators())[which]
    source = torch.Generator().manual_seed(seed)
    depth = DEPTHS[seed % len(DEPTHS)]
    x, w = data(kind, ROWS, WIDTH, depth, simulator.operands, source)
    tap = bounds.matmul(simulator.tap(x), simulator.tap(w), simulator.numerics)
    got = simulator.run(x, w, source)
    assert tap.worst is not None
    open_ended = tap.worst.isinf()
    error = (got - tap.value).abs().masked_fill_(open_ended, 0.0)
    exact = tap.worst == 0
    ratio = torch.where(exact, 0.0, error / tap.worst).masked_fill_(open_ended, 0.0)
    bins = -torch.frexp(ratio[ratio > 0]).exponent.to(torch.int64)
    bins = bins[bins < BINS].clamp_(min=0)
    row = Row(
        simulator.name, kind, got.numel(), 1, float(ratio.max()),
        exceeded=int((~(error <= tap.worst)).sum()),
        exact=int(exact.sum()),
        exact_differs=int((got != tap.value)[exact].sum()),
        histogram=torch.bincount(bins, minlength=BINS).tolist(),
    )  # fmt: skip
    if tap.likely is not None:
        beyond = (~(error <= tap.likely)) & ~open_ended
        row.likely = float(torch.where(exact, 0.0, error / tap.likely).max())
        row.likely_exceeded = int(beyond.any())
        row.likely_expected = tap.probability
    return row


def tasks(elements: float) -> Iterator[tuple[int, str, int]]:
    """Every simulator on every kind of data in turn, until `elements` are covered."""
    count = math.ceil(elements / (ROWS * WIDTH))
    pairs = [(i, kind) for i in range(len(list(simulators()))) for kind in KINDS]
    for number, (which, kind) in enumerate(islice(cycle(pairs), count)):
        yield which, kind, number // len(pairs) + 1000 * which


def collect(rows: Iterable[Row]) -> list[Row]:
    """One row for each simulator and kind."""
    table: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row.simulator, row.kind)
        table.setdefault(key, Row(*key)).add(row)
    return list(table.values())


def run(elements: float, processes: int) -> list[Row]:
    """Measure `elements` outputs on so many processes."""
    if processes == 1:
        return collect(map(measure, tasks(elements)))
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        return collect(pool.imap_unordered(measure, tasks(elements), chunksize=8))


def show(rows: list[Row]) -> None:
    """Print the largest error over its worst case: simulators by kinds of data."""
    table = {(row.simulator, row.kind): row for row in rows}
    kinds = "".join(f"{kind:>11}" for kind in KINDS)
    print(f"{'largest error / bound':28}{kinds}")
    for name in dict.fromkeys(row.simulator for row in rows):
        cells = (table.get((name, kind)) for kind in KINDS)
        line = "".join(f"{cell.worst:11.4f}" if cell else " " * 11 for cell in cells)
        print(f"{name:28}{line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--elements", type=float, default=1e6)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    start = time.monotonic()
    rows = run(options.elements, options.processes)
    show(rows)
    unsound = [row for row in rows if not row.sound]
    for row in unsound:
        print(f"unsound: {row}")
    if options.json:
        report = {
            "elements": sum(row.elements for row in rows),
            "seconds": round(time.monotonic() - start, 1),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "rows": [{**asdict(row), "median": row.median} for row in rows],
        }
        options.json.write_text(json.dumps(report, indent=1))
    return 1 if unsound else 0


if __name__ == "__main__":
    sys.exit(main())

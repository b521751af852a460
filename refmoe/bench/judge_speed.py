"""How fast verdicts come: small cases per second, the first one, what isolation costs.

A small case has T <= 32, H and I <= 128, E <= 16. Everything counts: building the
problem, the port's call, the trace with both bounds, the judgement.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context

import torch

from refmoe.case import Case
from refmoe.judge import judge
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.plan import DEFAULT_FORMATS, DEFAULT_MODELS, Cell, cells
from refmoe.plan import cases as cases_of
from refmoe.problem import build
from refmoe.protocol import OPS
from refmoe.record import Record
from refmoe.runner import run as run_port
from refmoe.verify import Verifier
from refmoe.worker.isolated import Isolated
from refmoe.worker.runner import InProcess, Runner, announced

#: An honest port that computes everything, and so costs little beside the judge.
PORT = "refmoe.gallery.honest:preset_ieee"
PROCESSES = 2
#: Cases of each process, and cases that isolation is timed on.
_CASES, _ISOLATED = 300, 1000
_LARGEST = "moe model=mixtral-8x7b T=32 H=128 I=128 E=16 k=2"


@dataclass(frozen=True, slots=True)
class Speed:
    """One measurement, and what it should reach."""

    name: str
    value: float
    unit: str
    target: str


def run() -> list[Speed]:
    """Rates in this many processes, the first verdict, isolation beside none."""
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        shares = [(number, PROCESSES) for number in range(PROCESSES)]
        small = sum(pool.map(_rate_of_small, shares))
        largest = sum(pool.map(_rate_of_largest, shares))
        first = max(pool.map(_first_verdict, shares))
    rows = [
        Speed(f"small cases, {PROCESSES} processes", small, "1/s", ">= 100"),
        Speed(f"largest small case, {PROCESSES} processes", largest, "1/s", "none"),
        Speed("first verdict after the first call", first, "s", "<= 5"),
    ]
    torch.set_num_threads(1)
    plain = _seconds(InProcess(), PORT)
    with Isolated() as runner:
        isolated = _seconds(runner, PORT)
    ratio = isolated / plain
    return [*rows, Speed(f"isolated, {_ISOLATED} cases", ratio, "x alone", "<= 1.2")]


def small_cases(seed: int) -> Iterator[tuple[Cell, Case]]:
    """Small cases of every op, regime by regime, without end."""
    grid = cells(tuple(OPS), DEFAULT_MODELS, DEFAULT_FORMATS, ("randn", "exact"))
    while True:
        for cell in grid:
            for case in cases_of(cell, 8, seed):
                if _small(case):
                    yield cell, case
                    break
        seed += 1


def _small(case: Case) -> bool:
    layer = case.layer
    return (
        0 < case.T <= 32 and layer.hidden <= 128 and layer.intermediate <= 128
        and layer.experts <= 16
    )  # fmt: skip


def _rate(lines: Sequence[Case]) -> float:
    """Cases per second in this process, once everything is imported."""
    torch.set_num_threads(1)
    port, verifier = load(PORT), Verifier()
    for case in lines[:20]:
        verifier.check(port, case)
    start = time.perf_counter()
    for case in lines[20:]:
        _passed(verifier.check(port, case))
    return (len(lines) - 20) / (time.perf_counter() - start)


def _rate_of_small(share: tuple[int, int]) -> float:
    number, count = share
    every = islice(small_cases(0), number, (_CASES + 20) * count, count)
    return _rate([case for _, case in every])


def _rate_of_largest(share: tuple[int, int]) -> float:
    first = share[0] << 32
    case = parse(_LARGEST)
    return _rate([case.but(seed=first + number) for number in range(60)])


def _first_verdict(share: tuple[int, int]) -> float:
    """Seconds between the end of a port's first call and the verdict."""
    problem, port = build(parse(_LARGEST)), load(PORT)
    outcome = run_port(port, problem)
    start = time.perf_counter()
    judge(problem.but(numerics=port.numerics), outcome)
    return time.perf_counter() - start


def _seconds(runner: Runner, target: str) -> float:
    """Time of the same cases through a runner, its start excluded."""
    (port,) = runner.load(target) if isinstance(runner, Isolated) else (load(target),)
    verifier = Verifier(runner=runner)
    plan = ((port, *pair) for pair in islice(small_cases(1), _ISOLATED + 20))
    start = 0.0
    for number, (_, cell, case) in enumerate(announced(plan, runner)):
        if number == 20:
            start = time.perf_counter()
        _passed(verifier.check(port, case, cell))
    return time.perf_counter() - start


def _passed(record: Record) -> None:
    if record.kind.failed:
        raise RuntimeError(f"bench: {record.case} is {record.kind} on {PORT}")

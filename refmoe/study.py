"""What lies behind findings: a smaller case that shows each, and its likely cause."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from refmoe.case import Case
from refmoe.diagnose import HYPOTHESES, Evidence, chosen, explain
from refmoe.exhibit import Album
from refmoe.parse import parse
from refmoe.port import Port
from refmoe.record import Record, Study
from refmoe.shrink import shrink
from refmoe.verdict import Kind
from refmoe.verify import Verifier

#: Findings that are studied, of as many different stages.
MOST = 5
#: Runs that shrinking may spend; on a hang each costs a whole deadline.
_RUNS, _RUNS_OF_A_HANG = 120, 5
UNEXPLAINED = "unexplained: no known mistake or neighbouring specification fits"


def studied(
    records: Sequence[Record],
    ports: Sequence[Port],
    verifier: Verifier,
    *,
    seconds: float,
) -> list[Record]:
    """The records, the severest failures with a smaller case and a cause.

    One record of each port, op and stage is studied, at most five in all, within
    `seconds` together; what runs out of time keeps its case or says no cause.
    """
    found, places = list(records), {port.name: port for port in ports}
    groups: dict[tuple[str, str, str], int] = {}
    order = sorted(range(len(found)), key=lambda n: -found[n].kind.severity)
    for number in order:
        record = found[number]
        if record.kind.failed and record.port in places:
            tap = record.judgement.verdict.tap
            groups.setdefault((record.port, record.cell.op, tap), number)
    chosen_ones = list(groups.values())[:MOST]
    for place, number in enumerate(chosen_ones):
        share = seconds / (len(chosen_ones) - place)
        start = time.monotonic()
        record = found[number]
        study = _study(record, found, places[record.port], verifier, share)
        found[number] = replace(record, study=study)
        seconds -= time.monotonic() - start
    return found


def _study(
    record: Record,
    records: Sequence[Record],
    port: Port,
    verifier: Verifier,
    seconds: float,
) -> Study:
    """A smaller case that fails alike, and what explains it and its like."""
    start, verdict = time.monotonic(), record.judgement.verdict
    case = parse(record.case, largest=None)
    # What no other arithmetic explained is not tried under all of them again.
    own = Verifier(runner=verifier.runner, open=dict(verifier.open))

    def fails(smaller: Case) -> bool:
        try:
            own.problem(smaller.but(law=None))
        except ValueError:
            return False
        other = own.check(port, smaller).judgement.verdict
        return (other.kind, other.tap) == (verdict.kind, verdict.tap)

    runs = _RUNS_OF_A_HANG if verdict.kind is Kind.HUNG else _RUNS
    small = shrink(case, fails, runs=runs, seconds=seconds / 2)
    # What is shown is the smaller case, and so are its pictures.
    own.album = Album(0 if record.exhibit is None else 1)
    smallest = record if small == case else own.check(port, small, record.cell)
    if verdict.kind is not Kind.WRONG or case.law is not None or not verdict.tap:
        return Study(smallest)
    evidence = [_evidence(line, port, own) for line in _calls(record, records, small)]
    left = seconds - (time.monotonic() - start)
    causes = explain(
        chosen([item for item in evidence if item is not None]),
        HYPOTHESES,
        seconds=max(left, 0.0),
    )
    return Study(smallest, str(causes[0]) if causes else UNEXPLAINED)


def _calls(
    record: Record, records: Sequence[Record], small: Case
) -> list[tuple[Case, bool]]:
    """Cases of the same op and port: the smallest wrong one, wrong ones, right ones."""
    found = [(small, False)]
    for other in records:
        same = (other.port, other.cell.op) == (record.port, record.cell.op)
        if not same or other.tactic or " law=" in other.case or not other.kind.decided:
            continue
        wrong = other.kind is Kind.WRONG and other.judgement.verdict.tap
        if wrong or not other.kind.reported:
            found.append((parse(other.case, largest=None), not wrong))
    return found


def _evidence(
    call: tuple[Case, bool], port: Port, verifier: Verifier
) -> Evidence | None:
    """The call made once more; None where it no longer runs."""
    case, right = call
    problem = verifier.problem(case)
    layer, numerics = port.definition(problem.layer)
    problem = problem.but(numerics=numerics)
    outcome = verifier.runner.run(port, problem)
    if outcome.status != "ran" or outcome.violations:
        return None
    stable = bool(port.get("stable", False))
    return Evidence(problem.but(layer=layer), outcome, right, stable)

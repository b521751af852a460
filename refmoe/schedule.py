"""Which port is given which cases, and in what order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from refmoe.case import Case
from refmoe.fitting import fitted
from refmoe.laws import Law
from refmoe.plan import Cell, cases, plain
from refmoe.port import Port
from refmoe.protocol import OPS
from refmoe.supports import Supports

#: Laws alternate between what must be bit-equal and ordinary values.
_REGIMES = ("exact", "randn")


def schedule(
    ports: Sequence[Port], cells: Sequence[Cell], count: int, seed: int = 0
) -> Iterator[tuple[Port, Cell, Case]]:
    """Every (port, cell, case): the first case of all cells, then the second ...

    Sizes are fitted to what a port supports. Where it declares that it does not support
    a model's block formats but the same layer in plain types, or else in the first
    formats that its `Supports` names, that takes the case's place.
    """
    drawn = [(cell, list(cases(cell, count, seed))) for cell in cells]
    for number in range(count):
        for port in ports:
            for cell, members in drawn:
                if cell.op in port.ops and number < len(members):
                    yield port, cell, _supported(port, members[number])


def heard(
    ports: Sequence[Port],
    cells: Sequence[Cell],
    laws: Sequence[Law],
    count: int = 1,
    seed: int = 0,
) -> Iterator[tuple[Port, Cell, Case]]:
    """`count` cases of every law, for each op of each port that it has a say about.

    Each is of another of the cells' subjects that the port supports, so that a few
    cases visit many; its cell has the law in the place of the regime.
    """
    subjects: dict[str, list[str]] = {}
    for cell in cells:
        known = subjects.setdefault(cell.op, [])
        if cell.subject not in known:
            known.append(cell.subject)
    for port in ports:
        for place, (op, of) in enumerate(subjects.items()):
            if op not in port.ops:
                continue
            for turn, law in enumerate(laws):
                for number in range(count):
                    first = place + turn + number
                    for step in range(len(of)):
                        subject = of[(first + step) % len(of)]
                        case = _of_law(law, op, subject, first, number, seed + number)
                        case = _supported(port, case)
                        if not _declines(port, case) and not _objects(law, case, port):
                            yield port, Cell(op, subject, f"law:{law.name}"), case
                            break


def _of_law(law: Law, op: str, subject: str, turn: int, number: int, seed: int) -> Case:
    """The case of a cell with the sizes of a law."""
    regime = _REGIMES[turn % len(_REGIMES)]
    tokens, hidden, wide = law.sizes[number % len(law.sizes)]
    case = list(cases(Cell(op, subject, regime), 2, seed))[1]
    case = case.but(T=tokens, H=hidden, I=wide, load="uniform", seed=seed)
    return fitted(case.but(law=law.name))


def _objects(law: Law, case: Case, port: Port) -> bool:
    try:
        return law.objection(case, port) is not None
    except Exception:
        # The verifier meets it again, and reports it as a crash of the port.
        return False


def _supported(port: Port, case: Case) -> Case:
    supports = port.get("supports")
    if isinstance(supports, Supports):
        case = supports.fitted(case)
    if not OPS[case.op].layered or not _declines(port, case):
        return case
    others = [plain(case)]
    if isinstance(supports, Supports):
        others.append(supports.instead(case))
    return next((other for other in others if not _declines(port, other)), case)


def _declines(port: Port, case: Case) -> bool:
    try:
        return port.unsupported(case) is not None
    except Exception:
        # The runner meets it again, and reports it as a crash of the port.
        return False

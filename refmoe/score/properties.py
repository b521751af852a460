"""Properties that a port is held to, each by a name; which of them a record breaks.

``regime:R`` and ``profile:P`` are the oracle's verdict on cases of that kind; ``law:L``
asks no oracle; ``guard:G`` watches memory; ``contract:C`` is what the protocol demands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from refmoe.laws import LAWS
from refmoe.plan import Cell
from refmoe.profiles import PROFILES
from refmoe.protocol import suggestion
from refmoe.record import Record
from refmoe.regimes import REGIMES
from refmoe.verdict import Kind

#: Guards, and the words of the sentences by which each speaks.
GUARDS = {
    "guard:canaries": "the call wrote outside ",
    "guard:gaps": "the call wrote between the rows ",
    "guard:arguments": "the call changed its argument ",
    "guard:poison": " were never written",
}
CONTRACTS = {
    "contract:results": "results and taps as many, of the type, shape and place agreed",
    "contract:returns": "the call returns: no exception, no dead process, in time",
    "contract:model": "the layer that is declared is the model's",
    "contract:decided": "something is executed and decided, on a case with a token",
}
#: Every property, and what it is.
PROPERTIES: dict[str, str] = {
    **{f"regime:{name}": rule.about for name, rule in REGIMES.items()},
    **{f"profile:{name}": "sizes and layouts of that profile" for name in PROFILES},
    **{f"law:{name}": law.about for name, law in LAWS.items()},
    **{name: f'says "{words.strip()}"' for name, words in GUARDS.items()},
    **CONTRACTS,
}


def property_called(name: str) -> str:
    """The property of that name that has cases of its own.

    Raises ValueError for an unknown one, with the closest, for guards and contracts.
    """
    if name not in PROPERTIES:
        raise ValueError(
            f"score: no property is called {name!r}; {suggestion(name, PROPERTIES)}"
        )
    if name.startswith(("guard:", "contract:")):
        raise ValueError(
            f"score: {name} is watched in every case and has none of its own; name a "
            "regime, profile or law"
        )
    return name


def of_cell(cell: Cell) -> str:
    """The property that the cases of a cell ask about."""
    if cell.regime.startswith("law:"):
        return cell.regime
    return f"profile:{cell.profile}" if cell.profile else f"regime:{cell.regime}"


def broken(record: Record, sentences: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The properties that a record breaks, with the stage that shows it.

    `sentences` are the violations of its launches, which stand for themselves: the
    record's own property is broken by values alone.
    """
    cell, verdict = record.cell, record.judgement.verdict
    for sentence in sentences:
        names = (name for name, words in GUARDS.items() if words in sentence)
        yield next(names, "contract:results"), cell.op
    if record.kind in (Kind.CRASHED, Kind.HUNG):
        yield "contract:returns", cell.op
    elif record.kind in (Kind.WRONG, Kind.UNDECLARED) and verdict.tap:
        yield of_cell(cell), f"{cell.op}.{verdict.tap}"
    elif record.deviation is not None or (record.kind is Kind.WRONG and not sentences):
        yield "contract:model", cell.op

"""What the experiments found: the fields, their evidence, what stayed open."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from oracle.numerics import Numerics

#: ``agrees``: the declaration is what was found. ``wider``: it admits what was found,
#: and more. ``contradicts``: what was found is outside it. ``observed``: nothing is
#: declared about it.
Status = Literal["agrees", "wider", "contradicts", "observed"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One field, found by one experiment.

    `found` lists every value that explains the outputs, so it holds several where the
    experiment cannot tell them apart; `value` is the one of them that is declared, or
    the likeliest. `candidates` says what each value that was considered would have
    given where `output` came.
    """

    field: str
    value: Any
    found: tuple[Any, ...]
    op: str
    given: str
    output: str
    candidates: Mapping[str, str] = dataclasses.field(default_factory=dict)
    declared: Any = None
    status: Status = "observed"


@dataclass(frozen=True, slots=True)
class Open:
    """A field that could not be found, and why."""

    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Identified:
    """The arithmetic of a port.

    `numerics` holds what was found, and for open fields what the port declares (else
    the default).
    """

    port: str
    numerics: Numerics
    evidence: tuple[Evidence, ...]
    open: tuple[Open, ...]
    calls: int
    seconds: float

    @property
    def contradictions(self) -> tuple[Evidence, ...]:
        """Fields whose declaration the experiment refutes: the findings."""
        return tuple(item for item in self.evidence if item.status == "contradicts")

    def of(self, name: str) -> Evidence | None:
        """The evidence of a field; a refutation before the rest."""
        items = [item for item in self.evidence if item.field == name]
        items.sort(key=lambda item: item.status != "contradicts")
        return items[0] if items else None

    def document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "port": self.port,
            "numerics": repr(self.numerics),
            "evidence": [
                {
                    "field": item.field,
                    "status": item.status,
                    "value": _plain(item.value),
                    "found": [_plain(value) for value in item.found],
                    "declared": _plain(item.declared),
                    "op": item.op,
                    "given": item.given,
                    "output": item.output,
                    "candidates": dict(item.candidates),
                }
                for item in self.evidence
            ],
            "open": [
                {"field": item.field, "reason": item.reason} for item in self.open
            ],
            "contradictions": [item.field for item in self.contradictions],
            "calls": self.calls,
            "seconds": round(self.seconds, 3),
        }


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else repr(value)

"""Laws: what holds between related launches of a port, whatever the right result is.

A new law is entered here, and names the entry of the gallery that it alone catches.
`launched` runs a law where the port is; `recorded` and `judge_law` judge it anywhere.
Results that agree to the bit ask nothing of the oracle, and of those that do not it
bounds a few rows: laws go where tracing a whole call would take too long.
"""

from __future__ import annotations

from refmoe.laws.experts import EXPERT_NUMBERS, MORE_EXPERTS
from refmoe.laws.judge import Held, judge_law, launched, recorded
from refmoe.laws.parts import EXPERT_RANKS, MODULAR, TACTICS, TENSOR_RANKS
from refmoe.laws.relation import Law
from refmoe.laws.state import CAPTURED, NEAR, OVERWRITTEN, REPEAT, REPLAY
from refmoe.laws.tokens import BATCH, TOKEN_ORDER
from refmoe.laws.widths import ZERO_PADDING
from refmoe.protocol import suggestion

__all__ = [
    "LAWS", "Held", "Law", "judge_law", "launched", "law_called", "recorded",
]  # fmt: skip

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        TOKEN_ORDER, BATCH, EXPERT_NUMBERS, MORE_EXPERTS, ZERO_PADDING,
        REPLAY, REPEAT, OVERWRITTEN, CAPTURED, NEAR,
        TACTICS, MODULAR, EXPERT_RANKS, TENSOR_RANKS,
    )
}  # fmt: skip


def law_called(name: str) -> Law:
    """The law called `name`; raises ValueError with the closest one."""
    if name not in LAWS:
        raise ValueError(f"case: no law is called {name!r}; {suggestion(name, LAWS)}")
    return LAWS[name]

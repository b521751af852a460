"""Which of many calls tell causes apart best."""

from __future__ import annotations

from collections.abc import Sequence

from refmoe.case import elements
from refmoe.diagnose.explain import Evidence

#: Regimes that blur a cause: what is dropped and what is multiplied by zero differ.
_BLURRED = ("nonfinite", "large", "subnormal", "cancelling", "codes")
WRONG, RIGHT = 4, 2


def chosen(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Four wrong calls and two right ones, small and large, in plain regimes first.

    Small calls are cheap to try; large ones tell a tile of 16 from one of 128. All are
    of the block format of the first wrong one: a mistake may be one of that format.
    """
    forms = [item.problem.case.format for item in evidence if not item.right]
    alike = [item for item in evidence if item.problem.case.format in forms[:1]]
    wrong = _spread([item for item in alike if not item.right], WRONG)
    return wrong + _spread([item for item in alike if item.right], RIGHT)


def _spread(items: Sequence[Evidence], count: int) -> list[Evidence]:
    """`count` of the items, from the smallest to the largest."""
    plain = [item for item in items if item.problem.case.regime not in _BLURRED]
    items = sorted(plain or items, key=lambda item: elements(item.problem.case))
    if len(items) <= count:
        return list(items)
    step = (len(items) - 1) / (count - 1)
    return [items[round(number * step)] for number in range(count)]

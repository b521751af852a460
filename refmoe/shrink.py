"""A smaller case that fails alike: field by field, within a budget of runs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from refmoe.case import Case, elements
from refmoe.protocol import OPS

#: Sizes by field, in the order in which they are made smaller: the costliest first.
_SIZES = ("T", "E", "H", "I", "k")
_LAYER = {"H": "hidden", "I": "intermediate", "E": "experts", "k": "top_k"}
#: Fields that other rules than "back to the default" apply to.
_OWN = ("op", *_SIZES, "model", "format", "changes", "seed")
_SEEDS = 4


@dataclass(slots=True)
class _Budget:
    runs: int
    deadline: float

    def spent(self) -> bool:
        return self.runs <= 0 or time.monotonic() >= self.deadline


def shrink(
    case: Case,
    fails: Callable[[Case], bool],
    *,
    runs: int = 200,
    seconds: float = math.inf,
) -> Case:
    """The simplest case found for which `fails` still holds; `case` itself if none.

    `fails` runs a candidate and says whether it gets the same verdict at the same
    stage; it is called at most `runs` times, and not after `seconds`. One field changes
    at a time: left out, a layer's field back to the model's, a size halved, the model
    replaced by its bare sizes. Candidates that cannot be built cost nothing, and none
    has more elements than what it replaces.
    """
    budget = _Budget(runs, time.monotonic() + seconds)
    improved = True
    while improved:
        improved = False
        for rule in (_without_words, _without_model, _smaller, _with_low_seed):
            for candidate in rule(case):
                if budget.spent():
                    return case
                if not _simpler(candidate, case):
                    continue
                budget.runs -= 1
                if fails(candidate):
                    case, improved = candidate, True
                    break
    return case


def _simpler(candidate: Case, case: Case) -> bool:
    """Whether the candidate can be described, and is no larger."""
    try:
        return candidate != case and elements(candidate) <= elements(case)
    except ValueError:
        return False


def _without_words(case: Case) -> Iterator[Case]:
    """The case with one more field at its default, or one change less."""
    for field in dataclasses.fields(case):
        if field.name not in _OWN and getattr(case, field.name) != field.default:
            yield case.but(**{field.name: field.default})
    for change in case.changes:
        rest = tuple(other for other in case.changes if other != change)
        yield case.but(changes=rest)


def _without_model(case: Case) -> Iterator[Case]:
    """The sizes alone, in place of the model."""
    if case.model is not None:
        yield _sized(case).but(model=None)


def _smaller(case: Case) -> Iterator[Case]:
    """One size smaller: the least first, then doubled up to one below it."""
    case = _sized(case)
    for name in _SIZES:
        size = getattr(case, name)
        if size is None:
            continue
        low = 0 if name == "T" else 1
        doubled = [1 << bits for bits in range(size.bit_length()) if 1 << bits < size]
        for smaller in dict.fromkeys((low, *doubled, size - 1)):
            if low <= smaller < size:
                yield case.but(**{name: smaller})


def _with_low_seed(case: Case) -> Iterator[Case]:
    for seed in range(min(_SEEDS, case.seed)):
        yield case.but(seed=seed)


def _sized(case: Case) -> Case:
    """The case with the model's own sizes written out, where the op looks at them."""
    missing = {
        name: getattr(case.layer, _LAYER[name])
        for name in OPS[case.op].sizes
        if getattr(case, name) is None
    }
    return case.but(**missing) if missing else case

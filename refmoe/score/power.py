"""The smallest bug that is seen: relative errors of scales, and single elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch

from oracle import bounds
from oracle.spec import PLAIN_TYPES
from oracle.trace import Tap, Trace
from refmoe import reference
from refmoe.case import format_names
from refmoe.compare import NAMES
from refmoe.fitting import fitted
from refmoe.generator import Stream
from refmoe.judge import judge
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.plan import Cell, cases
from refmoe.problem import Problem, build
from refmoe.regimes import REGIMES
from refmoe.runner import run
from refmoe.verdict import Outcome

#: Relative errors 2^-1 to 2^-_FINEST are tried.
_FINEST = 20
#: What a scale error is in: all weights, or the first block of a row of each expert.
EXTENTS = ("every scale", "one scale")
_BLOCK = 32
_MODEL = "mixtral-8x7b"
#: 2^20 elements of y, and how many of them are moved out of their bound, one at a time.
_LARGE = "grouped_gemm model=mixtral-8x7b T=1024 H=64 I=512 E=4 k=1 seed=20"
_PLACES = 8
Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Caught:
    """The smallest relative error that some cases show, by how many they are."""

    format: str
    op: str
    extent: str
    smallest: dict[int, float | None]

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "format": self.format, "op": self.op, "extent": self.extent,
            "smallest": {str(count): error for count, error in self.smallest.items()},
        }  # fmt: skip


def formats(op: str = "grouped_gemm") -> list[str]:
    """Every format that weights can have; of recipes alike in decoding, the first."""
    found = []
    for name in (*PLAIN_TYPES, *(name for name in format_names() if ":" not in name)):
        try:
            problem_of(op, name, 0)
        except (ValueError, NotImplementedError):
            continue
        found.append(name)
    return found


def scale_power(form: str, op: str, extent: str, counts: Sequence[int]) -> Caught:
    """How small a scale error the first so many cases show; all regimes take turns.

    An error that a case shows is halved until it does not; the next one starts there.
    """
    power, found = 0, dict[int, float | None]()
    for number in range(max(counts)):
        problem = problem_of(op, form, number)
        oracle = Kept()
        while power < _FINEST and shown(problem, oracle, 2.0 ** -(power + 1), extent):
            power += 1
        if number + 1 in counts:
            found[number + 1] = 2.0**-power if power else None
    return Caught(form, op, extent, found)


def problem_of(op: str, form: str, number: int) -> Problem:
    """The problem with a number, its weights in a format; all regimes take turns."""
    rules = [n for n, rule in REGIMES.items() if not rule.suits or op in rule.suits]
    rule = rules[number % len(rules)]
    *_, case = cases(Cell(op, _MODEL, rule), number % 8 + 1)
    return build(fitted(case.but(weights=form, seed=number)))


def shown(problem: Problem, oracle: Kept, error: float, extent: str) -> bool:
    """Whether the case shows a relative error in weights as they meet x."""
    port = import_module("refmoe.gallery.plain").Plain()
    honest = port.unpacked

    def wrong(weight: Any) -> Tensor:
        value: Tensor = honest(weight).clone()
        part = value if extent == EXTENTS[0] else value[:1, :_BLOCK]
        part *= 1.0 + error
        return value

    port.unpacked = wrong
    loaded = port_of(port, "off")
    problem = problem.but(numerics=loaded.numerics)
    return judge(problem, run(loaded, problem), oracle=oracle).verdict.kind.failed


class Kept:
    """The oracle of one problem; its trace from the beginning is made once."""

    def __init__(self) -> None:
        self.trace: Trace | None = None

    def __call__(self, problem: Problem, **arguments: Any) -> Trace:
        if any(value is not None and len(value) for value in arguments.values()):
            return reference.trace(problem, **arguments)
        if self.trace is None:
            self.trace = reference.trace(problem)
        return self.trace


# ---- single elements of a million, and other suites' rules on the same output


@cache
def _large() -> tuple[Problem, Tensor, Kept]:
    """A problem with 2^20 elements of y, an honest y, and the oracle."""
    port = port_of(import_module("refmoe.gallery.plain").Plain(), "plain")
    problem = build(parse(_LARGE))
    problem = problem.but(numerics=port.numerics)
    return problem, run(port, problem).outputs["y"], Kept()


def single_elements() -> dict[str, int]:
    """Elements moved just out of their bound, one at a time: how many were caught."""
    problem, y, oracle = _large()
    judge(problem, Outcome("ran", {"y": y}), oracle=oracle)
    assert oracle.trace is not None
    name = NAMES[y.dtype]
    tap = bounds.rounded(oracle.trace["y"], name, problem.numerics)
    places = Stream(0, "places").integers((_PLACES,), 0, y.numel()).tolist()
    caught = 0
    for place in (0, y.numel() - 1, *places):
        moved = y.clone()
        flat = moved.view(-1)
        flat[place] = _beyond(tap, place, y.dtype)
        outcome = Outcome("ran", {"y": moved})
        caught += judge(problem, outcome, oracle=oracle).verdict.kind.failed
    return {"of": y.numel(), "moved": _PLACES + 2, "caught": caught}


def smallest_rejected(
    names: Sequence[str] = (),
) -> dict[str, dict[str, float | int | None]]:
    """For the bounds, and each rule of others (or some), the least that is rejected.

    `scale` is the relative error of a whole output, `elements` how many of 2^20 have to
    be zero, in an order drawn once.
    """
    problem, y, oracle = _large()
    order = Stream(1, "order").normal((y.numel(),)).argsort()

    def scaled(power: int) -> Tensor:
        return (y.float() * (1.0 + 2.0**-power)).to(y.dtype)

    def emptied(count: int) -> Tensor:
        moved = y.clone()
        moved.view(-1)[order[:count]] = 0.0
        return moved

    def ours(got: Tensor) -> bool:
        outcome = Outcome("ran", {"y": got})
        return judge(problem, outcome, oracle=oracle).verdict.kind.failed

    def by(rule: Any) -> Callable[[Tensor], bool]:
        want = _value(oracle, problem)
        return lambda got: not rule.accepts(want, got.double())

    rules = import_module("refmoe.gallery.rules").RULES
    known = {"derived bounds": ours, **{rule.name: by(rule) for rule in rules}}
    return {
        name: {"scale": _finest(rejects, scaled), "elements": _fewest(rejects, emptied)}
        for name, rejects in known.items()
        if not names or name in names
    }


def _value(oracle: Kept, problem: Problem) -> Tensor:
    return oracle(problem)["y"].value.double()


def _finest(
    rejected: Callable[[Tensor], bool], scaled: Callable[[int], Tensor]
) -> float | None:
    power = 0
    while power < _FINEST and rejected(scaled(power + 1)):
        power += 1
    return 2.0**-power if power else None


def _fewest(
    rejected: Callable[[Tensor], bool], emptied: Callable[[int], Tensor]
) -> int | None:
    low, high = 0, _large()[1].numel()
    if not rejected(emptied(high)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rejected(emptied(middle)) else (middle, high)
    return high


def _beyond(tap: Tap, place: int, dtype: torch.dtype) -> Tensor:
    """The first number of a type above what the bound of an element admits."""
    high = float(tap.value.view(-1)[place])
    high += 0.0 if tap.worst is None else float(tap.worst.reshape(-1)[place])
    step = torch.tensor(high, dtype=torch.float64).to(dtype)
    while float(step) <= high:
        step = torch.nextafter(step, torch.full_like(step, torch.inf))
    return step

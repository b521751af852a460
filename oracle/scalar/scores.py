"""From one token's logits to enclosures of the scores and exactly comparable keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from oracle.scalar.elementary import exp, sigmoid, softplus, tanh
from oracle.scalar.interval import (
    Interval,
    Number,
    exact,
    maximum,
    square_root,
    total,
)
from oracle.scalar.keys import Atom, Comparison, Key


@dataclass(frozen=True, slots=True)
class Logit:
    """One logit as given, with the bias that `Routing.bias` "logits" adds."""

    raw: Number
    bias: Fraction

    @property
    def absent(self) -> bool:
        """Whether it is minus infinity."""
        return self.raw == -math.inf


def logits_of(
    row: Sequence[Number], routing: Any, bias: Sequence[Number]
) -> list[Logit]:
    """The row's logits; raises ValueError for NaN and plus infinity.

    Minus infinity is refused, too, where the transform would make it finite or turn it.
    """
    padded = list(bias) + [0] * (len(row) - len(bias))
    keeps_infinity = routing.softcap is None and routing.logits_scale > 0
    for x in row:
        if not (math.isfinite(x) or (x == -math.inf and keeps_infinity)):
            raise ValueError(f"scalar: logit {x} has no score here; give finite ones")
    on_logits = routing.bias == "logits"
    return [
        Logit(x, exact(b) if on_logits else Fraction(0))
        for x, b in zip(row, padded, strict=True)
    ]


def value(x: Interval, bias: Fraction, routing: Any) -> Interval:
    """l = softcap tanh(x / softcap) + bias, x being the scaled logit."""
    if routing.softcap is not None:
        x = tanh(x / routing.softcap) * routing.softcap
    return x + bias if bias else x


def logit_value(logit: Logit, routing: Any) -> Interval:
    """The logit after scale, softcap and bias, rounded at each step."""
    scaled = Interval.of(logit.raw) * routing.logits_scale
    return value(scaled, logit.bias, routing)


def atom_of(logit: Logit, routing: Any) -> Atom:
    """The logit for exact comparison; without a softcap the bias is folded in."""
    x = exact(logit.raw) * exact(routing.logits_scale)
    if routing.softcap is None:
        return Atom(x + logit.bias)
    return Atom(x, logit.bias)


def score_all(logits: Sequence[Logit], routing: Any, score: str) -> list[Interval]:
    """s(l) of every logit; softmax takes its sum over all of them.

    softmax, sigmoid, sqrt(log(1 + e^l)) or l itself. A logit of minus infinity scores
    0; all of them absent leave softmax undefined (ZeroDivisionError).
    """
    zero = Interval.of(0)
    present = [logit_value(logit, routing) for logit in logits if not logit.absent]
    if score == "identity":
        if len(present) < len(logits):
            raise ValueError("scalar: a logit of -inf is its own score; drop it")
        return present
    if score == "softmax":
        if not present:
            raise ZeroDivisionError("scalar: softmax of logits that are all -inf")
        top = maximum(present)
        powers = [_power(item, top) for item in present]
        sum_of_powers = total(powers)
        scored = [power / sum_of_powers for power in powers]
    elif score == "sigmoid":
        scored = [sigmoid(item) for item in present]
    elif score == "sqrtsoftplus":
        scored = [square_root(softplus(item)) for item in present]
    else:
        raise ValueError(f"scalar: score {score!r} is unknown")
    rest = iter(scored)
    return [zero if logit.absent else next(rest) for logit in logits]


def _power(x: Interval, top: Interval) -> Interval:
    """e^(x - top), where the top one itself is exactly 1."""
    return exp((x - top).clamp(high=0)) if x != top else Interval.of(1)


def keys_of(
    logits: Sequence[Logit],
    choices: int,
    routing: Any,
    bias: Sequence[Number],
) -> tuple[list[Key], Comparison]:
    """The selection keys of the first `choices` logits, and how they compare.

    The key is the score (the logit itself where the top k comes first) plus the
    selection bias.
    """
    score = routing.score if routing.order == "score_then_topk" else "identity"
    added = bias if routing.bias == "selection" else [0] * choices
    rational = score == "identity" and routing.softcap is None
    keys = []
    for logit, extra in zip(logits[:choices], added, strict=True):
        if logit.absent:
            keys.append(Key(exact(extra), removed=score == "identity"))
        elif rational:
            keys.append(Key(atom_of(logit, routing).x + exact(extra)))
        else:
            keys.append(Key(exact(extra), (atom_of(logit, routing),)))
    atoms = [atom_of(logit, routing) for logit in logits if not logit.absent]
    return keys, comparison(atoms, routing, score)


def comparison(atoms: Sequence[Atom], routing: Any, score: str) -> Comparison:
    """How keys compare whose atoms are scored by `score` among `atoms`."""

    def one(atom: Atom) -> Interval:
        x = value(Interval.of(atom.x), atom.bias, routing)
        if score == "sigmoid":
            return sigmoid(x)
        if score == "sqrtsoftplus":
            return square_root(softplus(x))
        if score == "identity":
            return x
        every = [value(Interval.of(a.x), a.bias, routing) for a in atoms]
        top = maximum(every)
        return _power(x, top) / total(_power(item, top) for item in every)

    return Comparison(one, mirrored=score == "sigmoid")

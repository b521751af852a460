"""From a line of text to a case; the text may come from anywhere."""

from __future__ import annotations

import dataclasses
import math
import re
from functools import cache
from typing import Any, get_type_hints

from refmoe.case import CHOICES, PARTS, Case, Value, elements, rank_of
from refmoe.protocol import OPS, suggestion

#: Most elements (weights, tokens and logits) of a case.
LARGEST = 1 << 27
_LONGEST_LINE = 2000
_HIGHEST = {
    "T": 1 << 20, "H": 1 << 17, "I": 1 << 17, "E": 1 << 20, "k": 1 << 10,
    "rows": 1 << 20,
}  # fmt: skip
#: Most ranks of one case.
_RANKS = 1 << 10
#: Layer fields that a case sets by the short names of its own.
_OWN = {"hidden", "intermediate", "experts", "top_k", "routing", "activation", "shared",
        "dtype", "weights", "activations", "requantize", "name"}  # fmt: skip
_WORD = re.compile(r"[A-Za-z0-9_.:+/\-]+")


def parse(line: str, *, largest: int | None = LARGEST) -> Case:
    """The case that `line` spells.

    `largest` bounds its number of elements, since a line may come from anywhere; None
    lifts the bound.

    >>> parse("route T=3 H=8 I=8 E=4 k=2 routing.scale=2.5").changes
    (('routing.scale', 2.5),)

    Raises ValueError with the reason: an unknown op, key or value, a key given twice, a
    size out of range, a case too large.
    """
    if len(line) > _LONGEST_LINE:
        raise ValueError(
            f"case: the line has {len(line)} characters; the limit is {_LONGEST_LINE}"
        )
    words = line.split()
    if not words:
        raise ValueError("case: the line is empty; write an op, then key=value words")
    op, *pairs = words
    if op not in OPS:
        raise ValueError(f"case: no op is called {op!r}; {suggestion(op, OPS)}")
    fields: dict[str, Any] = {}
    changes: dict[str, Value] = {}
    for word in pairs:
        key, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"case: {word!r} is no key=value; write for example T=8")
        if key in fields or key in changes:
            raise ValueError(f"case: {key} is given twice; keep one of them")
        if not _WORD.fullmatch(text):
            raise ValueError(
                f"case: {key}={text!r} is no value; use letters, digits and _ . : + / -"
            )
        if key in _kinds():
            changes[key] = _value(key, text)
        else:
            fields[key] = _field(key, text)
    case = Case(op, **fields, changes=tuple(sorted(changes.items())))
    count = elements(case)
    if largest is not None and count > largest:
        raise ValueError(
            f"case: {count} elements exceed {largest}; make T, H, I or E smaller, or "
            "lift the bound (--large)"
        )
    return case


def _field(key: str, text: str) -> int | str:
    """The value of one of Case's own fields."""
    if key == "seed":
        return _integer(key, text, 0, (1 << 63) - 1)
    if key in _HIGHEST:
        return _integer(key, text, 0 if key == "T" else 1, _HIGHEST[key])
    if key in CHOICES and text not in CHOICES[key]:
        raise ValueError(
            f"case: {key}={text!r} is unknown; use one of {', '.join(CHOICES[key])}"
        )
    if key in ("local", "shard"):
        _check_rank(key, text)
    names = [field.name for field in dataclasses.fields(Case)]
    known = [name for name in names if name not in ("op", "changes")]
    if key not in known:
        raise ValueError(
            f"case: no key is called {key!r}; {suggestion(key, (*known, *_kinds()))}"
        )
    return text


def _check_rank(key: str, text: str) -> None:
    if not re.fullmatch("[0-9]{1,4}/[0-9]{1,4}", text):
        raise ValueError(
            f"case: {key}={text!r} is no rank/size; write for example {key}=1/4"
        )
    rank, size = rank_of(text)
    if not rank < size <= _RANKS:
        raise ValueError(
            f"case: {key}={text} is no rank; give 0 to size - 1 of at most {_RANKS}"
        )


def _integer(key: str, text: str, low: int, high: int) -> int:
    if not re.fullmatch("[0-9]{1,19}", text):
        raise ValueError(
            f"case: {key}={text!r} is no whole number; write for example 8"
        )
    value = int(text)
    if not low <= value <= high:
        raise ValueError(f"case: {key}={text} is out of range; give {low} to {high}")
    return value


@cache
def _kinds() -> dict[str, Any]:
    """Type of every layer field that a case may change, by dotted key."""
    found = {}
    for part, owner in PARTS.items():
        for name, kind in get_type_hints(owner).items():
            if part != "layer":
                found[f"{part}.{name}"] = kind
            elif name not in _OWN:
                found[name] = kind
    found.pop("shared.activation")
    return found


def _value(key: str, text: str) -> Value:
    """`text` as the type that the layer's field has."""
    kind = _kinds()[key]
    if text == "none" and type(None) in getattr(kind, "__args__", ()):
        return None
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError(f"case: {key}={text!r} is neither true nor false")
        return text == "true"
    if kind is int:
        return _integer(key, text, 0, 1 << 20)
    if kind is float or float in getattr(kind, "__args__", ()):
        try:
            number = float(text)
        except ValueError:
            raise ValueError(
                f"case: {key}={text!r} is no number; write for example 2.5"
            ) from None
        if not math.isfinite(number) or "_" in text:
            raise ValueError(f"case: {key}={text!r} is no finite number")
        return number
    return text

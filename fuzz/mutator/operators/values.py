"""Mistakes of arithmetic: constants, comparisons, operators, operands, rounding."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from fuzz.mutator.operators.registry import Edit, operator, replaced
from fuzz.mutator.tokens import Source

_COMPARE = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
_OTHER = {
    "+": "-", "-": "+", "*": "/", "/": "*", "%": "/", "<<": ">>", ">>": "<<",
    "&": "|", "|": "&", "^": "|",
}  # fmt: skip
_LOGIC = {"&&": "||", "||": "&&"}
_ROUNDED = [f"__f{name}_rn" for name in ("add", "sub", "mul", "div", "maf", "sqrt")]
_ROUGH = {
    **{name: name[:-1] + "z" for name in _ROUNDED},
    "expf": "__expf", "kNearestEven": "kHalfAway",
}  # fmt: skip
#: Where the order of arguments makes no difference.
_COMMUTATIVE = {"__fadd_rn", "__fmul_rn", "min", "max", "fmaxf", "fminf", "__vmaxu2"}
#: What has two operands, of which one may be forgotten.
_PAIRS = {
    *_COMMUTATIVE, "__fsub_rn", "__fdiv_rn", "at_most", "at_least", "divide", "capped",
    "padded",
}  # fmt: skip
#: Around which constants only steer the compiler.
_STEERING = ("__launch_bounds__", "static_assert", "alignas", "__align__")


@operator("compare")
def compare(source: Source) -> Iterator[Edit]:
    """The bound belongs to the other side."""
    for i, token in enumerate(source.tokens):
        if token.text in _COMPARE and source.binary(i):
            yield replaced(source, i, i, _COMPARE[token.text])


@operator("arithmetic")
def arithmetic(source: Source) -> Iterator[Edit]:
    """Another operator."""
    for i, token in enumerate(source.tokens):
        if token.text in _OTHER and source.binary(i):
            yield replaced(source, i, i, _OTHER[token.text])


@operator("logic")
def logic(source: Source) -> Iterator[Edit]:
    """And for or."""
    for i, token in enumerate(source.tokens):
        if token.text in _LOGIC and source.binary(i):
            yield replaced(source, i, i, _LOGIC[token.text])


def _constants(source: Source) -> Iterator[int]:
    steering = 0
    for i, token in enumerate(source.tokens):
        if token.text in _STEERING and i + 1 in source.partner:
            steering = source.partner[i + 1]
        if token.kind == "number" and i > steering:
            yield i


def _moved(text: str, by: int) -> str | None:
    """An integer constant plus `by`, spelt alike; None for any other."""
    match = re.fullmatch(r"(0[xX][0-9a-fA-F]+|\d+)([uUlL]*)", text)
    if match is None:
        return None
    base = 16 if match[1][:2].lower() == "0x" else 10
    value = int(match[1], base) + by
    if value < 0:
        return None
    return (f"0x{value:X}" if base == 16 else str(value)) + match[2]


@operator("constant+1")
def constant_up(source: Source) -> Iterator[Edit]:
    """An integer constant is one too large."""
    for i in _constants(source):
        if (text := _moved(source.tokens[i].text, 1)) is not None:
            yield replaced(source, i, i, text)


@operator("constant-1")
def constant_down(source: Source) -> Iterator[Edit]:
    """An integer constant is one too small."""
    for i in _constants(source):
        if (text := _moved(source.tokens[i].text, -1)) is not None:
            yield replaced(source, i, i, text)


@operator("constant off")
def constant_off(source: Source) -> Iterator[Edit]:
    """A constant with a fraction is 1 % too large; 0 becomes 1."""
    for i in _constants(source):
        text = source.tokens[i].text
        if _moved(text, 0) is None and re.fullmatch(r"[\d.]+(e[+-]?\d+)?f?", text):
            value = float(text.rstrip("f"))
            made = repr(value * 1.01 if value else 1.0)
            yield replaced(source, i, i, made + "f" * text.endswith("f"))


@operator("rounding")
def rounding(source: Source) -> Iterator[Edit]:
    """Another direction, another tie, a faster function."""
    for i, token in enumerate(source.tokens):
        if token.text in _ROUGH and source.function[i]:
            yield replaced(source, i, i, _ROUGH[token.text])


@operator("swap operands")
def swap_operands(source: Source) -> Iterator[Edit]:
    """Two neighbouring arguments, or both sides of an operator, trade places."""
    for i, token in enumerate(source.tokens):
        if not source.function[i]:
            continue
        if token.text in ("-", "/", "%", "<<", ">>") and source.binary(i):
            first, last = source.back(i - 1), source.ahead(i + 1)
            left, right = source.part(first, i - 1), source.part(i + 1, last)
            yield replaced(source, first, last, f"({right}) {token.text} ({left})")
        if token.text == "(" and source.operand(i - 1) and i in source.partner:
            if source.tokens[i - 1].text in _COMMUTATIVE:
                continue
            places = source.arguments(i)
            for (a, b), (c, d) in pairwise(places):
                own, between = source.part(a, b), source.text
                between = between[source.tokens[b].stop : source.tokens[c].start]
                yield replaced(source, a, d, source.part(c, d) + between + own)


@operator("drop operation")
def drop_operation(source: Source) -> Iterator[Edit]:
    """Of two operands one is all that is left."""
    for i, token in enumerate(source.tokens):
        if token.text in _PAIRS and source.is_(i + 1, "(") and source.function[i]:
            for first, last in source.arguments(i + 1)[:2]:
                text = f"({source.part(first, last)})"
                yield replaced(source, i, source.partner[i + 1], text)

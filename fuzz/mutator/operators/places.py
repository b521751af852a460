"""Mistakes of place: indices, strides, axes, widths."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.mutator.operators.registry import Edit, operator, replaced
from fuzz.mutator.tokens import KEYWORDS, Source

#: Names that are taken for one another.
_AXES = {
    a: b
    for pair in (
        "x y", "rows columns", "down across", "gate up", "row column", "first last",
        "top left", "xs ws", "block_rows block_columns", "old_rows new_rows",
        "upper lower", "alpha beta", "from to", "lead block", "experts choices",
        "counts totals", "low high", "encode decode", "operand stored", "start stop",
    )
    for a, b in (pair.split(), pair.split()[::-1])
}  # fmt: skip
#: i64 to i32 shows past 2^31 elements only, which no case of a plan has.
_NARROW = {
    "u64": "u32", "double": "float", "i32": "short", "u32": "u16", "u16": "u8",
    "int": "short",
}  # fmt: skip
_WIDE = {"u8": "u16", "u16": "u32", "i32": "i64", "u32": "u64", "float": "double"}
_SIGN = {"u8": "i8", "u16": "short", "u32": "i32", "i32": "u32", "int": "u32"}


def _subscripts(source: Source) -> Iterator[int]:
    """Opening brackets of indices; sizes of arrays are none."""
    for i in range(1, len(source.tokens)):
        if not (source.is_(i, "[") and source.operand(i - 1) and i in source.partner):
            continue
        name = source.back(i - 1)
        before = source.tokens[name - 1]
        declared = before.kind == "word" and before.text not in KEYWORDS
        # (&values)[N], T at[N], i32* own[2]
        declared |= source.is_(name, "(") and source.is_(name + 1, "&", "*")
        declared |= source.is_(name - 1, ">") and name - 1 in source.partner
        if not declared and source.partner[i] > i + 1 and source.function[i]:
            yield i


@operator("index+1")
def index_up(source: Source) -> Iterator[Edit]:
    """The element behind."""
    for i in _subscripts(source):
        end = source.tokens[source.partner[i]].start
        yield end, end, " + 1"


@operator("index-1")
def index_down(source: Source) -> Iterator[Edit]:
    """The element before."""
    for i in _subscripts(source):
        end = source.tokens[source.partner[i]].start
        yield end, end, " - 1"


@operator("wrong axis")
def wrong_axis(source: Source) -> Iterator[Edit]:
    """One of two names that go together stands for the other."""
    for i, token in enumerate(source.tokens):
        other = _AXES.get(token.text)
        if other is None or not source.function[i]:
            continue
        before = source.tokens[i - 1]
        declared = before.kind == "word" and before.text not in KEYWORDS
        if declared or source.is_(i - 1, ">") or source.is_(i + 1, "("):
            continue
        yield replaced(source, i, i, other)


@operator("drop factor")
def drop_factor(source: Source) -> Iterator[Edit]:
    """A stride is 1: one factor of a product is gone."""
    for i in range(len(source.tokens)):
        if source.is_(i, "*") and source.binary(i):
            yield source.tokens[i - 1].stop, source.tokens[source.ahead(i + 1)].stop, ""


@operator("drop term")
def drop_term(source: Source) -> Iterator[Edit]:
    """An offset is gone."""
    for i in range(len(source.tokens)):
        if source.is_(i, "+", "-") and source.binary(i):
            last = source.ahead(i + 1)
            while source.is_(last + 1, "*", "/", "%") and source.binary(last + 1):
                last = source.ahead(last + 2)
            yield source.tokens[i - 1].stop, source.tokens[last].stop, ""


def _types(source: Source, other: dict[str, str]) -> Iterator[tuple[int, str]]:
    for i, token in enumerate(source.tokens):
        if token.text in other and not source.is_(i - 1, "using"):
            if not source.is_(i - 2, "using"):
                yield i, other[token.text]


@operator("narrow type")
def narrow(source: Source) -> Iterator[Edit]:
    """A type that holds less."""
    for i, other in _types(source, _NARROW):
        yield replaced(source, i, i, other)


@operator("widen type")
def widen(source: Source) -> Iterator[Edit]:
    """What lies in memory takes more room: members, what pointers point to."""
    for i, other in _types(source, _WIDE):
        member = not source.function[i] and source.is_(source.around[i], "{")
        if member or source.is_(i + 1, "*"):
            yield replaced(source, i, i, other)


@operator("change sign")
def change_sign(source: Source) -> Iterator[Edit]:
    """The type of that width with, or without, a sign."""
    for i, other in _types(source, _SIGN):
        yield replaced(source, i, i, other)

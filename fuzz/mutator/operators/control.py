"""Mistakes of control: checks, branches, loops, statements."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.mutator.operators.registry import Edit, operator, replaced
from fuzz.mutator.tokens import KEYWORDS, Source

_ESCAPES = ("return", "continue", "break")
_ASSIGNING = ("=", "+=", "-=", "*=", "/=", "|=", "&=", "<<=", ">>=")


def _conditions(source: Source) -> Iterator[int]:
    """The opening bracket of every `if`, constexpr apart."""
    for i in range(len(source.tokens)):
        if source.is_(i, "if") and source.is_(i + 1, "(") and i + 1 in source.partner:
            yield i + 1


def _escapes(source: Source, opening: int) -> bool:
    return source.is_(source.partner[opening] + 1, *_ESCAPES)


@operator("drop check")
def drop_check(source: Source) -> Iterator[Edit]:
    """A thread past the end no longer leaves; what was guarded always happens."""
    for i in _conditions(source):
        word = "(false)" if _escapes(source, i) else "(true)"
        yield replaced(source, i, source.partner[i], word)


@operator("skip branch")
def skip_branch(source: Source) -> Iterator[Edit]:
    """What was guarded never happens."""
    for i in _conditions(source):
        word = "(true)" if _escapes(source, i) else "(false)"
        yield replaced(source, i, source.partner[i], word)


@operator("negate condition")
def negate_condition(source: Source) -> Iterator[Edit]:
    """A condition means the contrary."""
    for i in _conditions(source):
        inside = source.part(i + 1, source.partner[i] - 1)
        yield replaced(source, i, source.partner[i], f"(!({inside}))")
    for i in range(len(source.tokens)):
        if source.is_(i, "!") and source.function[i]:
            yield replaced(source, i, i, "")


@operator("swap branches")
def swap_branches(source: Source) -> Iterator[Edit]:
    """Both values of a conditional expression trade places."""
    for i in range(len(source.tokens)):
        if not source.is_(i, "?"):
            continue
        middle, depth = i + 1, 0
        while not (source.is_(middle, ":") and depth == 0):
            depth += source.is_(middle, "?") - source.is_(middle, ":")
            middle = max(source.partner.get(middle, middle), middle) + 1
        end = middle + 1
        while not source.is_(end, ";", ",", ")", "]", "}"):
            end = max(source.partner.get(end, end), end) + 1
        a, b = source.part(i + 1, middle - 1), source.part(middle + 1, end - 1)
        yield replaced(source, i + 1, end - 1, f"{b} : ({a})")


@operator("break for continue")
def break_for_continue(source: Source) -> Iterator[Edit]:
    """A loop ends where it should go on."""
    for i in range(len(source.tokens)):
        if source.is_(i, "continue"):
            yield replaced(source, i, i, "break")


def _loops(source: Source) -> Iterator[tuple[int, int, int]]:
    """Both semicolons and the closing bracket of every `for`."""
    for i in range(len(source.tokens)):
        if source.is_(i, "for") and i + 1 in source.partner:
            first = source.ends_statement(i + 2)
            second = None if first is None else source.ends_statement(first + 1)
            if first is not None and second is not None:
                yield first, second, source.partner[i + 1]


@operator("skip last")
def skip_last(source: Source) -> Iterator[Edit]:
    """A loop ends one turn early."""
    for first, second, _ in _loops(source):
        inside = range(first + 1, second)
        compares = [i for i in inside if source.is_(i, "<") and source.binary(i)]
        if len(compares) == 1 and not any(source.is_(i, "&&", "||") for i in inside):
            end = source.tokens[second].start
            yield end, end, " - 1"


@operator("skip first")
def skip_first(source: Source) -> Iterator[Edit]:
    """A loop begins one turn late."""
    for first, _, _ in _loops(source):
        if source.is_(first - 1, "0") and source.is_(first - 2, "="):
            yield replaced(source, first - 1, first - 1, "1")


@operator("wrong step")
def wrong_step(source: Source) -> Iterator[Edit]:
    """A loop takes steps that are one too long."""
    for _, second, closing in _loops(source):
        if source.is_(second + 1, "++"):
            name = source.part(second + 2, closing - 1)
            yield replaced(source, second + 1, closing - 1, f"{name} += 2")
        elif source.is_(second + 2, "+="):
            end = source.tokens[closing].start
            yield end, end, " + 1"


def _statements(source: Source) -> Iterator[tuple[int, int, int]]:
    """First token, mark behind the first operand, and semicolon; no declarations."""
    for i, token in enumerate(source.tokens):
        if token.kind != "word" and token.text != "++":
            continue
        if not source.begins_statement(i) or token.text in KEYWORDS:
            continue
        end = source.ends_statement(i)
        if token.text == "asm" or end is None:
            continue
        mark = source.ahead(i + (token.text == "++")) + 1
        if mark == end or source.is_(mark, *_ASSIGNING):
            yield i, mark, end


@operator("stale accumulator")
def stale_accumulator(source: Source) -> Iterator[Edit]:
    """What should start anew keeps its old value."""
    for i, mark, end in _statements(source):
        if source.is_(mark, "=") and end == mark + 2:
            if source.is_(mark + 1, "0", "0.0f", "0u", "0.0"):
                yield replaced(source, i, end, ";")


@operator("overwritten accumulator")
def overwritten_accumulator(source: Source) -> Iterator[Edit]:
    """What should be added to replaces what was there."""
    for i in range(len(source.tokens)):
        if source.is_(i, "+=", "|=") and source.function[i]:
            yield replaced(source, i, i, "=")


@operator("drop statement")
def drop_statement(source: Source) -> Iterator[Edit]:
    """An assignment or a call is gone."""
    for i, _, end in _statements(source):
        yield replaced(source, i, end, ";")

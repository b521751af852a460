"""Operators by name: functions from a file's tokens to edits of its text."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fuzz.mutator.tokens import Source

#: Characters from start to stop become a text.
Edit = tuple[int, int, str]
Operator = Callable[[Source], Iterator[Edit]]

OPERATORS: dict[str, Operator] = {}


def operator(name: str) -> Callable[[Operator], Operator]:
    """Enter a function under a name."""

    def enter(function: Operator) -> Operator:
        assert name not in OPERATORS, name
        OPERATORS[name] = function
        return function

    return enter


def replaced(source: Source, first: int, last: int, insert: str) -> Edit:
    """The edit that puts `insert` in place of tokens `first` to `last`."""
    return source.tokens[first].start, source.tokens[last].stop, insert

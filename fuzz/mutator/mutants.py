"""Mutants of the kernels: one change each, named by place and operator."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fuzz.mutator.operators import OPERATORS
from fuzz.mutator.tokens import Source
from refmoe.kernels.source import ROOM

#: Files and functions that no op of the port runs, and the tests of kernels that
#: hold them in its place.
OUTSIDE = {
    (
        "convert.cu",
        "",
    ): "every code, every float: test_formats_kernels.py",
    ("grouped.cu", "linear_scales"): "the 128x4 layout: test_grouped_kernels.py",
    ("permute.cu", "pad_regions"): "the 128x4 layout: test_grouped_kernels.py",
    ("operand.cuh", "interleaved_nibble"): "another's packing: test_prepare_kernels.py",
    ("blocks.cuh", "offset_128x4"): "the 128x4 layout: test_grouped_kernels.py",
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file: characters `start` to `stop` become `insert`."""

    file: str
    line: int
    column: int
    operator: str
    function: str
    #: The line with the place, without and with the change.
    before: str
    after: str
    start: int
    stop: int
    insert: str
    #: Counts what an operator makes of one place.
    variant: int = 1

    @property
    def id(self) -> str:
        """file:line:column:operator, of several at one place with their number."""
        number = f"#{self.variant}" if self.variant > 1 else ""
        return f"{self.file}:{self.line}:{self.column}:{self.operator}{number}"

    def applied(self, text: str) -> str:
        """The file's text with the change in it."""
        return text[: self.start] + self.insert + text[self.stop :]


def files(room: Path = ROOM) -> dict[str, str]:
    """Every source of the kernels by name, in order."""
    paths = sorted((*room.glob("*.cu"), *room.glob("*.cuh")))
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def mutants(name: str, text: str) -> Iterator[Mutant]:
    """Every mutant of one file, operator by operator, no two with the same text."""
    source = Source(name, text)
    seen = {(0, 0, "")}
    for operator, generate in OPERATORS.items():
        variants: Counter[int] = Counter()
        for start, stop, insert in generate(source):
            edit = _trimmed(text, start, stop, insert)
            if edit in seen or text[edit[0] : edit[1]] == edit[2]:
                continue
            seen.add(edit)
            variants[start] += 1
            line = text.count("\n", 0, start) + 1
            left = text.rfind("\n", 0, start) + 1
            right = text.find("\n", stop)
            right = len(text) if right < 0 else right
            yield Mutant(
                name, line, start - left + 1, operator, _function(source, start),
                " ".join(text[left:right].split()),
                " ".join((text[left:start] + insert + text[stop:right]).split()),
                start, stop, insert, variants[start],
            )  # fmt: skip


def sample(texts: Mapping[str, str], count: int, seed: int = 0) -> list[Mutant]:
    """`count` mutants in the order in which they should run.

    Operators take turns, and within an operator the files: whatever part of the list
    is reached is spread over both.
    """
    turns: dict[str, dict[str, list[Mutant]]] = defaultdict(lambda: defaultdict(list))
    for name, text in texts.items():
        for mutant in mutants(name, text):
            if OUTSIDE.keys() & {(name, ""), (name, mutant.function)}:
                continue
            turns[mutant.operator][name].append(mutant)
    queues = []
    for operator, by_file in turns.items():
        dice = random.Random(f"{seed} {operator}")
        for members in by_file.values():
            dice.shuffle(members)
        order = list(by_file.values())
        dice.shuffle(order)
        queues.append(list(_in_turns(order)))
    random.Random(seed).shuffle(queues)
    return [mutant for mutant, _ in zip(_in_turns(queues), range(count), strict=False)]


def _in_turns(queues: list[list[Mutant]]) -> Iterator[Mutant]:
    for number in range(max(map(len, queues), default=0)):
        for queue in queues:
            if number < len(queue):
                yield queue[number]


def _trimmed(text: str, start: int, stop: int, insert: str) -> tuple[int, int, str]:
    """The edit without what it leaves as it is: equal edits become equal."""
    while start < stop and insert and text[start] == insert[0]:
        start, insert = start + 1, insert[1:]
    while start < stop and insert and text[stop - 1] == insert[-1]:
        stop, insert = stop - 1, insert[:-1]
    return start, stop, insert


def _function(source: Source, start: int) -> str:
    found = bisect_left(source.tokens, start, key=lambda token: token.start)
    return source.function[found] if found < len(source.tokens) else ""

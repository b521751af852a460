"""Mistakes of threads: barriers, atomics, shuffles."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.mutator.operators.registry import Edit, operator, replaced
from fuzz.mutator.tokens import Source

_BARRIERS = ("__syncthreads", "__syncwarp", "wait_for_copies", "commit_copies")


def _calls(source: Source) -> Iterator[tuple[int, int]]:
    """The name and the opening bracket of every call or declaration."""
    for i, token in enumerate(source.tokens):
        if token.kind != "word":
            continue
        opening = i + 1
        if source.is_(opening, "<") and opening in source.partner:
            opening = source.partner[opening] + 1
        if source.is_(opening, "(") and opening in source.partner:
            yield i, opening


@operator("drop barrier")
def drop_barrier(source: Source) -> Iterator[Edit]:
    """A statement that waits for other threads, or for copies, is gone."""
    for i, opening in _calls(source):
        end = source.partner[opening] + 1
        if source.is_(i, *_BARRIERS) and source.begins_statement(i):
            if source.is_(end, ";"):
                yield replaced(source, i, end, ";")


@operator("weaker barrier")
def weaker_barrier(source: Source) -> Iterator[Edit]:
    """A barrier of the block becomes one of the warp; one copy more may be late."""
    for i, opening in _calls(source):
        if source.is_(i, "__syncthreads") and source.begins_statement(i):
            yield replaced(source, i, i, "__syncwarp")
        if source.is_(i, "wait_for_copies") and source.begins_statement(i):
            end = source.tokens[opening - 1].start
            yield end, end, " + 1"


@operator("drop atomic")
def drop_atomic(source: Source) -> Iterator[Edit]:
    """An atomic update becomes a store."""
    for i, opening in _calls(source):
        if source.tokens[i].text.startswith("atomic"):
            (a, b), (c, d) = source.arguments(opening)[:2]
            closing = source.partner[opening]
            text = f"*({source.part(a, b)}) = {source.part(c, d)}"
            yield replaced(source, i, closing, text)


@operator("shuffle distance")
def shuffle_distance(source: Source) -> Iterator[Edit]:
    """A lane reads from the next but one."""
    for i, opening in _calls(source):
        if source.tokens[i].text.startswith("__shfl"):
            a, b = source.arguments(opening)[2]
            yield replaced(source, a, b, f"({source.part(a, b)}) + 1")
            yield replaced(source, a, b, f"({source.part(a, b)}) / 2")


@operator("warp mask")
def warp_mask(source: Source) -> Iterator[Edit]:
    """A collective of the warp names its lower half only, or nobody meets it."""
    for i, opening in _calls(source):
        name = source.tokens[i].text
        if name.startswith("__") and name.endswith("_sync") and source.function[i]:
            a, b = source.arguments(opening)[0]
            yield replaced(source, a, b, "0x0000FFFFu")


@operator("drop collective")
def drop_collective(source: Source) -> Iterator[Edit]:
    """A lane takes its own value for that of the warp."""
    for i, opening in _calls(source):
        name = source.tokens[i].text
        if name.startswith(("__shfl", "__reduce")) and name.endswith("_sync"):
            a, b = source.arguments(opening)[1]
            closing = source.partner[opening]
            yield replaced(source, i, closing, f"({source.part(a, b)})")
        if name in ("maximum_over", "maximum_over_block", "sum_over_warp"):
            if source.function[i]:
                a, b = source.arguments(opening)[0]
                closing = source.partner[opening]
                yield replaced(source, i, closing, f"({source.part(a, b)})")

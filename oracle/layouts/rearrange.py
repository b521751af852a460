"""Permutations written as two patterns of axes, in the notation of einops."""

from __future__ import annotations

import math
import re

import torch


def rearrange(
    x: torch.Tensor, source: str, target: str, /, **sizes: int
) -> torch.Tensor:
    """Split the last axes as `source` says, reorder the parts, join as `target` says.

    A pattern lists groups of names, one group an axis, slowest part first; every part
    of a group but one needs its size. Axes in front of the pattern's are kept.
    Exchanging the patterns gives the inverse, so a layout is written once.

    Shapes: x [..., an axis per group of source] -> [..., an axis per group of target],
    contiguous
    Raises ValueError where an axis is no multiple of the sizes given for its group.

    >>> rearrange(torch.arange(6).reshape(2, 3), "(r) (c)", "(c r)").tolist()
    [0, 3, 1, 4, 2, 5]
    """
    groups = _groups(source)
    first = x.ndim - len(groups)
    if first < 0:
        raise ValueError(
            f"rearrange: x has {x.ndim} axes, the pattern {source!r} {len(groups)}; "
            "give x every axis of the pattern"
        )
    known = dict(sizes)
    for group, size in zip(groups, x.shape[first:], strict=True):
        known.update(_solve(group, size, known))
    names = [name for group in groups for name in group]
    order = [name for group in _groups(target) for name in group]
    if sorted(names) != sorted(order):
        raise ValueError(f"rearrange: {source!r} and {target!r} name different parts")
    lead = x.shape[:first]
    parts = x.reshape(*lead, *(known[name] for name in names))
    moved = parts.permute(*range(first), *(first + names.index(name) for name in order))
    joined = (math.prod(known[name] for name in group) for group in _groups(target))
    return moved.reshape(*lead, *joined).contiguous()


def _groups(pattern: str) -> list[list[str]]:
    return [group.split() for group in re.findall(r"\(([^)]*)\)", pattern)]


def _solve(group: list[str], size: int, known: dict[str, int]) -> dict[str, int]:
    """The size of the one part of `group` that is not known."""
    given = math.prod(known.get(name, 1) for name in group)
    free = [name for name in group if name not in known]
    if len(free) > 1:
        raise ValueError(f"rearrange: give the sizes of all but one of {free}")
    if (size % given if free else size != given) or not given:
        raise ValueError(
            f"rearrange: an axis of {size} does not split into ({' '.join(group)}), "
            f"of which {given} are given; pad it to a multiple"
        )
    return {name: size // given for name in free}

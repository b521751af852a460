"""Which rows an expert gets, and which tokens they come back to."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from oracle.params import Blocks
from oracle.trace import Tap
from refmoe.diagnose import changes
from refmoe.diagnose.hypothesis import Alteration, Hypothesis, Place
from refmoe.problem import Problem

_GEMM = ("grouped_gemm", "experts", "moe")


def rows_zeroed(tap: Tap, offsets: torch.Tensor, dropped: Any) -> Tap:
    """The tap with rows start + dropped(count) of every expert at zero."""
    keep = torch.ones(len(tap.value), dtype=torch.bool)
    edges = offsets.tolist()
    for start, stop in pairwise(edges):
        keep[start:stop][dropped(stop - start)] = False
    return tap.map(lambda t: t * keep.to(t.dtype)[:, None])


def _tail(tile: int) -> Alteration:
    return lambda place, tap: rows_zeroed(
        tap, place.offsets, lambda count: slice(count // tile * tile, None)
    )


def _from_row(first: int) -> Alteration:
    return lambda place, tap: rows_zeroed(
        tap, place.offsets, lambda count: slice(first, None)
    )


def _gemms(name: str, about: str, change: Alteration) -> Hypothesis:
    return Hypothesis(name, about, alter=dict.fromkeys(("gate_up", "down"), change),
                      ops=_GEMM)  # fmt: skip


def _copied(source: int, target: int) -> Alteration:
    """Row `target` of every expert computed as its row `source`; -1 is the last."""

    def altered(place: Place, tap: Tap) -> Tap:
        index = torch.arange(len(tap.value))
        edges = place.offsets.tolist()
        for start, stop in pairwise(edges):
            count = stop - start
            if max(source, target) < count and min(source, target) >= -count:
                index[start + target % count] = start + source % count
        return tap.map(lambda t: t[index])

    return altered


def _compacted(problem: Problem) -> Problem | None:
    """Weights counted by the experts that have rows."""
    experts = problem.layer.experts
    if "offsets" in problem.inputs:
        counts = problem.inputs["offsets"].diff()
    elif "ids" in problem.inputs:
        ids = problem.inputs["ids"].reshape(-1).long()
        ids = ids[(ids >= 0) & (ids < experts)]
        counts = torch.bincount(ids, minlength=experts)
    else:
        return None
    order = ((counts > 0).long().cumsum(0) - 1).clamp(min=0)

    def moved(weight: Any) -> Any:
        if isinstance(weight, Blocks):
            own = weight.global_scale
            return replace(
                weight, codes=weight.codes[order], scales=weight.scales[order],
                global_scale=own[order] if own is not None and own.ndim else own,
            )  # fmt: skip
        return weight[order]

    if "weights" in problem.inputs and "offsets" in problem.inputs:
        weights = moved(problem.inputs["weights"])
        return problem.but(inputs={**problem.inputs, "weights": weights})
    own = problem.params
    return problem.but(
        params=replace(own, gate_up=moved(own.gate_up), down=moved(own.down))
    )


def _inverted(problem: Problem) -> Problem | None:
    """Rows go back through the permutation in place of its inverse."""
    rows, weights = problem.inputs["rows"], problem.inputs["weights"]
    if len(rows) != weights.numel():
        return None
    # Every row keeps its own weight on its way to the wrong place.
    back, moved = rows.argsort(), torch.empty_like(weights).reshape(-1)
    moved[back] = weights.reshape(-1)[rows]
    found = {"rows": back, "weights": moved.reshape(weights.shape)}
    return problem.but(inputs={**problem.inputs, **found})


def _first_slot(place: Place, tap: Tap) -> Tap:
    """The first row in place of them all."""
    return Tap(tap.value[:1].expand_as(tap.value).contiguous())


def _wrapped(place: Place, tap: Tap) -> Tap:
    counts = (tap.value.diff() + 128) % 256 - 128
    return Tap(torch.cat((tap.value[:1], counts.cumsum(0))))


def _ids(name: str, about: str, change: Any, ops: tuple[str, ...]) -> Hypothesis:
    return Hypothesis(name, about, changes.inputs("ids")(change), ops=ops)


HYPOTHESES = (
    Hypothesis(
        "inclusive_offsets",
        "offsets are the inclusive sum of the counts",
        alter={
            "offsets": lambda place, tap: Tap(
                torch.cat((tap.value[1:], tap.value[-1:]))
            )
        },
        ops=("permute",),
    ),
    Hypothesis(
        "first_slot_everywhere",
        "every place holds the first slot",
        alter={"rows": _first_slot},
        ops=("permute",),
    ),
    Hypothesis(
        "counts_in_8_bits",
        "counts wrap at 128",
        None,
        {"offsets": _wrapped},
        ("permute",),
    ),
    _ids("ids_in_8_bits", "ids keep eight bits", lambda ids: ids & 255, ("permute",)),
    Hypothesis(
        "inverse_permutation",
        "rows go back through the permutation in place of its inverse",
        _inverted,
        ops=("combine",),
    ),
    Hypothesis(
        "empty_experts_skipped",
        "weights are counted by the experts that have rows",
        _compacted,
        ops=("grouped_gemm", "experts"),
    ),
    *(
        _gemms(
            f"tail_rows_{tile}",
            f"rows behind an expert's last whole tile of {tile} stay zero",
            _tail(tile),
        )
        for tile in (128, 64, 32, 16, 8)
    ),
    *(
        _gemms(
            f"rows_from_{first}",
            f"an expert's rows from {first} on stay zero",
            _from_row(first),
        )
        for first in (256, 128, 64, 32, 16)
    ),
    _gemms(
        "last_row_repeats", "an expert's last row is that before it", _copied(-2, -1)
    ),
    _gemms("second_tile", "row 128 of an expert is computed as row 0", _copied(0, 128)),
)

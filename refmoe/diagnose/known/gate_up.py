"""In which order gate and up lie, and which rows a weight has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from oracle.params import Blocks
from oracle.trace import Tap
from refmoe.diagnose.hypothesis import Change, Hypothesis, Place
from refmoe.problem import Problem

Columns = Callable[[torch.Tensor], torch.Tensor]
_OPS = ("activate", "experts", "moe")


def reordered(name: str, about: str, view: Columns) -> Hypothesis:
    """A hypothesis about the columns of gate_up [R, 2I] of gated experts."""
    return before_activation(name, about, lambda place, tap: tap.map(view))


def before_activation(
    name: str,
    about: str,
    alteration: Callable[[Place, Tap], Tap],
    also: Change | None = None,
) -> Hypothesis:
    """A hypothesis about what gated experts' activation reads, and does (`also`)."""

    def altered(place: Place, tap: Tap) -> Tap:
        return alteration(place, tap) if place.layer.activation.gated else tap

    def change(problem: Problem) -> Problem | None:
        if not problem.layer.activation.gated:
            return None
        given, changed = problem.inputs.get("gate_up"), problem
        if also is not None:
            found = also(problem)
            if found is None:
                return None
            changed = found
        if given is None:
            return changed
        none = torch.empty(0, dtype=torch.int64)
        place = Place(problem, problem.params, none, none, {})
        value = alteration(place, Tap(given.double())).value
        return changed.but(inputs={**problem.inputs, "gate_up": value})

    return Hypothesis(name, about, change, {"gate_up": altered}, _OPS)


def _swapped(columns: torch.Tensor) -> torch.Tensor:
    return columns.roll(columns.shape[-1] // 2, -1)


def _interleaved(columns: torch.Tensor) -> torch.Tensor:
    """Even columns as gates, odd ones as ups."""
    return torch.cat((columns[..., 0::2], columns[..., 1::2]), -1)


def _concatenated(columns: torch.Tensor) -> torch.Tensor:
    """The inverse: gates and ups dealt out in turn."""
    gate, up = columns.chunk(2, -1)
    return torch.stack((gate, up), -1).flatten(-2)


def _in_groups(columns: torch.Tensor, size: int = 8) -> torch.Tensor:
    """Groups of 8 gates and 8 ups in turn."""
    half = columns.shape[-1] // 2
    if half % size:
        return columns
    parts = columns.reshape(*columns.shape[:-1], half // size, 2, size)
    return parts.transpose(-3, -2).flatten(-3)


def _split_at_padding(columns: torch.Tensor, multiple: int = 64) -> torch.Tensor:
    """[gate | up | padding] cut in the middle of its padded width."""
    half = columns.shape[-1] // 2
    padded = -(-half // multiple) * multiple
    wide = torch.nn.functional.pad(columns, (0, 2 * (padded - half)))
    return torch.cat((wide[..., :half], wide[..., padded : padded + half]), -1)


def _transposed(problem: Problem) -> Problem | None:
    """Square weights the other way round."""

    def turned(weight: object) -> object:
        if isinstance(weight, torch.Tensor) and weight.shape[-1] == weight.shape[-2]:
            return None if weight.is_meta else weight.transpose(-1, -2).contiguous()
        if isinstance(weight, Blocks):
            rows, columns = weight.format.block
            if rows == columns and weight.codes.shape[-1] == weight.codes.shape[-2]:
                return replace(
                    weight,
                    codes=weight.codes.transpose(-1, -2).contiguous(),
                    scales=weight.scales.transpose(-1, -2).contiguous(),
                )
        return None

    own = {name: turned(getattr(problem.params, name)) for name in ("gate_up", "down")}
    own = {name: value for name, value in own.items() if value is not None}
    given = turned(problem.inputs.get("weights"))
    if not own and given is None:
        return None
    inputs = dict(problem.inputs)
    if given is not None:
        inputs["weights"] = given
    params = replace(problem.params, **own)  # type: ignore[arg-type]
    return problem.but(params=params, inputs=inputs)


HYPOTHESES = (
    reordered("gate_and_up_swapped", "gate and up are taken for each other", _swapped),
    reordered(
        "read_as_interleaved",
        "[gate | up] is read as if gates and ups alternated",
        _interleaved,
    ),
    reordered(
        "read_as_concatenated",
        "gates and ups are dealt out in turn where they lie in two halves",
        _concatenated,
    ),
    reordered(
        "read_in_groups_of_8",
        "[gate | up] is read as groups of 8 gates and 8 ups",
        _in_groups,
    ),
    *(
        reordered(
            f"split_at_padding_{multiple}",
            f"[gate | up | padding] is cut in the middle of its width padded to "
            f"{multiple}",
            lambda columns, multiple=multiple: _split_at_padding(columns, multiple),  # type: ignore[misc]
        )
        for multiple in (32, 64, 128)
    ),
    Hypothesis(
        "weight_transposed",
        "a square weight is taken the other way round",
        _transposed,
        ops=("grouped_gemm", "experts", "moe"),
    ),
)

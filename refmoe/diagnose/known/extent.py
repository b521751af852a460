"""What a kernel leaves out or writes elsewhere: tokens, columns, products."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from oracle.params import Blocks
from oracle.spec import BlockFormat, Layer
from oracle.trace import Tap
from refmoe.diagnose import changes
from refmoe.diagnose.hypothesis import Alteration, Change, Hypothesis, Place
from refmoe.problem import Problem

_GEMM = ("grouped_gemm", "experts", "moe")


def _masked(axis: int, kept: Any) -> Alteration:
    """Zero where the position along `axis` is not kept(position, size)."""

    def altered(place: Place, tap: Tap) -> Tap:
        size = tap.value.shape[axis]
        keep = kept(torch.arange(size), size)
        shape = [1] * tap.value.ndim
        shape[axis] = size
        return tap.map(lambda t: t * keep.to(t.dtype).reshape(shape))

    return altered


def _whole(tile: int) -> Any:
    return lambda place, size: place < size // tile * tile


def _exchanged(place: Place, tap: Tap) -> Tap:
    """The last two tokens change places."""
    order = torch.arange(len(tap.value))
    if len(order) > 1:
        order[-2:] = order[-2:].flip(0)
    return tap.map(lambda t: t[order])


def _products(kept: Any) -> Change:
    """Products along K that are not kept count as zero, in both GEMMs."""

    def cut(value: Any) -> Any:
        if value is None or (isinstance(value, torch.Tensor) and value.is_meta):
            return value
        if isinstance(value, Blocks):
            return replace(value, codes=cut(value.codes))
        size = value.shape[-1]
        return value * kept(torch.arange(size), size).to(value.dtype)

    def changed(problem: Problem) -> Problem | None:
        if problem.case.op == "grouped_gemm":
            x = cut(problem.inputs["x"])
            if torch.equal(x, problem.inputs["x"]):
                return None
            return problem.but(inputs={**problem.inputs, "x": x})
        own = problem.params
        found = replace(own, gate_up=cut(own.gate_up), down=cut(own.down))
        return problem.but(params=found)

    return changed


def _between_ranks(tile: int) -> Any:
    """All but the columns between half of them and half padded to `tile`."""

    def kept(place: torch.Tensor, size: int) -> torch.Tensor:
        half = size // 2
        return (place < half) | (place >= -(-half // tile) * tile)

    return kept


def _second_gemm(kept: Any) -> Change:
    """Products of GEMM2 that are not kept count as zero."""

    def changed(problem: Problem) -> Problem | None:
        down: Any = problem.params.down
        blocks = isinstance(down, Blocks)
        cut = replace(down, codes=down.codes.clone()) if blocks else down.clone()
        tensor = cut.codes if blocks else cut
        size = tensor.shape[-1]
        keep = kept(torch.arange(size), size)
        if bool(keep.all()):
            return None
        tensor[..., ~keep] = 0
        return problem.but(params=replace(problem.params, down=cut))

    return changed


def _plain(*names: str) -> Change:
    """Without quantising what the GEMMs read."""

    def changed(layer: Layer) -> Layer:
        own = {
            name: layer.dtype
            for name in names
            if isinstance(getattr(layer, name), BlockFormat)
        }
        return replace(layer, **own)  # type: ignore[arg-type]

    return changes.layer(changed)


def _gemm_columns(tile: int) -> Hypothesis:
    change = _masked(-1, _whole(tile))
    return Hypothesis(
        f"columns_{tile}",
        f"columns behind the last whole tile of {tile} stay zero in both GEMMs",
        alter={"gate_up": change, "down": change},
        ops=_GEMM,
    )


def _result(name: str, about: str, change: Alteration) -> Hypothesis:
    """What happens to the layer's result, or to the routed sum where that is all."""
    return Hypothesis(name, about, alter={"out": change}, ops=("moe",))


def _routed(name: str, about: str, change: Alteration) -> Hypothesis:
    return Hypothesis(name, about, alter={"routed": change}, ops=("experts", "combine"))


def _either(name: str, about: str, change: Alteration) -> tuple[Hypothesis, ...]:
    return _result(name, about, change), _routed(name, about, change)


#: What leaves so little that much would explain it.
WHOLE = (
    *_either(
        "all_zero", "nothing is written", _masked(0, lambda place, size: place < 0)
    ),
    *_either(
        "last_token_zero",
        "the last token is not written",
        _masked(0, lambda place, size: place < size - 1),
    ),
    *_either("tokens_exchanged", "the last two tokens change places", _exchanged),
)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """What follows the first element in memory."""
    strides = torch.empty(tensor.shape, device="meta").stride()
    try:
        return tensor.as_strided(tensor.shape, strides).clone()
    except RuntimeError:
        return tensor


def _spread(place: Place, tap: Tap) -> Tap:
    """NaN in every column in which any row is not finite."""
    broken = ~place.inputs["down"].isfinite().all(0)
    return tap.map(lambda t: t.masked_fill(broken, torch.nan))


HYPOTHESES = (
    Hypothesis(
        "nonfinite_rows_spread",
        "a row that is not finite spreads over all tokens (times a mask of 0, say)",
        alter={"routed": _spread},
        ops=("combine",),
    ),
    Hypothesis(
        "strides_ignored",
        "views are read as if their rows lay one behind the other",
        changes.inputs("x", "gate_up", "down", "logits", "weights", "ids")(_dense),
    ),
    *(_gemm_columns(tile) for tile in (128, 64, 32, 16)),
    *(
        hypothesis
        for tile in (128, 64, 32, 16)
        for hypothesis in _either(
            f"result_columns_{tile}",
            f"columns of the result behind the last whole tile of {tile} stay zero",
            _masked(-1, _whole(tile)),
        )
    ),
    *(
        Hypothesis(
            f"products_{tile}",
            f"products behind the last whole tile of {tile} of K are left out",
            _products(_whole(tile)),
            ops=_GEMM,
        )
        for tile in (128, 64, 32, 16)
    ),
    Hypothesis(
        "products_from_256",
        "products from 256 on are left out",
        _products(lambda place, size: place < 256),
        ops=_GEMM,
    ),
    *(
        Hypothesis(
            f"rank_slice_{tile}",
            f"the second of two ranks starts at its shard padded to {tile}",
            _second_gemm(_between_ranks(tile)),
            ops=("experts", "moe"),
        )
        for tile in (128, 64, 32)
    ),
    Hypothesis(
        "not_quantised",
        "activations are not quantised",
        _plain("activations", "requantize"),
        ops=("experts", "moe"),
    ),
    Hypothesis(
        "x_not_quantised",
        "x is not quantised",
        _plain("activations"),
        ops=("experts", "moe"),
    ),
    Hypothesis(
        "intermediate_not_quantised",
        "the intermediate is not quantised",
        _plain("requantize"),
        ops=("experts", "moe"),
    ),
)

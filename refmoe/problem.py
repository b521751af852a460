"""From a case to the tensors of one call: Case -> Problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from oracle.numerics import PRESETS, Numerics
from oracle.omni import side
from oracle.params import Blocks, Params
from oracle.permutation import permute
from oracle.spec import Layer
from refmoe.case import Case, block_format
from refmoe.dimensions import check, check_blocks
from refmoe.generator import Stream
from refmoe.protocol import OPS
from refmoe.ranks import of_rank
from refmoe.regimes import Regime, Source, regime
from refmoe.regimes.load import ids as load_ids
from refmoe.regimes.params import VOCABULARY, layer_params, router_params
from refmoe.regimes.regime import plain
from refmoe.views import copied, laid_out, mapped

#: Rows of x past the last offset, where a case has any.
_TAIL = 7


@dataclass(frozen=True, slots=True)
class Problem:
    """One call: what is computed, on which tensors, in which declared arithmetic.

    `inputs` holds the op's arguments and keywords by name, without params and layer.
    """

    case: Case
    layer: Layer
    params: Params
    inputs: Mapping[str, Any]
    numerics: Numerics
    #: i64[S], the tokens that are judged, rising (None: all).
    sample: torch.Tensor | None = None

    def but(self, **changes: Any) -> Problem:
        """A copy with some fields changed."""
        return replace(self, **changes)


def build(case: Case, numerics: Numerics = PRESETS["ieee"]) -> Problem:
    """The problem that `case` describes; the same bits wherever it is built.

    Raises ValueError where the case names something unknown or its sizes do not fit.
    """
    check(case)
    layer, rule = case.layer, regime(case.regime)
    source = Source(case, layer, load_ids(case, layer))
    params = (layer_params if OPS[case.op].weighted else router_params)(source, rule)
    layer, params, local = of_rank(case, layer, params)
    check_blocks(case, layer)
    inputs = _INPUTS[case.op](replace(source, layer=layer), rule, params)
    for name, value in inputs.items():
        if _is_laid_out(value):
            inputs[name] = mapped(value, lambda part: laid_out(part, case.memory))
    if local is not None:
        inputs["local"] = local
    return Problem(case, layer, params, inputs, numerics, _sample(case))


def _is_laid_out(value: Any) -> bool:
    """Whether a case's `memory` concerns an input: expert weights stay dense."""
    shape = getattr(value, "shape", None)
    return shape is not None and len(shape) <= 2


def _sample(case: Case) -> torch.Tensor | None:
    if case.rows is None or case.rows >= case.T:
        return None
    order = Stream(case.seed, "sample").permutations(1, case.T)[0]
    return order[: case.rows].sort().values


def move(value: Any, device: str) -> Any:
    """`value` with every tensor in it copied to `device`: tensors, Blocks, Params.

    The copies lie in memory as the originals do.
    """
    return mapped(value, lambda tensor: copied(tensor, device))


def tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor inside `value` by a dotted name."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    found: dict[str, torch.Tensor] = {}
    if isinstance(value, Blocks | Params):
        for field in fields(value):
            found |= tensors(getattr(value, field.name), f"{name}.{field.name}")
    return found


def _x(source: Source, rule: Regime, name: str = "x", rows: int | None = None) -> Any:
    count = source.case.T if rows is None else rows
    return plain(
        rule.tokens(source, name, count, source.layer.hidden), source.layer.dtype
    )


def _logits(source: Source, rule: Regime) -> dict[str, Any]:
    dtype = source.case.logits_dtype or "fp32"
    found = {"logits": plain(rule.logits(source), dtype)}
    if source.layer.routing.method == "hash":
        ids = source.stream("token_ids").integers((source.case.T,), 0, VOCABULARY - 1)
        found["token_ids"] = ids.int() if source.case.seed % 2 else ids
    return found


def _rows(source: Source) -> Any:
    layer = source.layer
    ids = torch.where(source.ids >= layer.experts, -1, source.ids)
    return permute(ids, layer.experts)


def _experts(source: Source, rule: Regime, params: Params) -> dict[str, Any]:
    return {
        "x": _x(source, rule),
        "ids": source.ids,
        "weights": plain(rule.weights(source), "fp32"),
    }


def _grouped(source: Source, rule: Regime, params: Params) -> dict[str, Any]:
    rows = _rows(source)
    used = len(rows.slots)
    tail = _TAIL if source.case.slots == "tail" else 0
    x = _x(source, rule, rows=used + tail)
    # Larger than the rest, so that a maximum over them shows.
    x[used:] *= 4
    return {
        "x": x,
        "offsets": rows.offsets,
        "weights": params.gate_up,
    }


def _grouped_quantize(source: Source, rule: Regime, params: Params) -> dict[str, Any]:
    found = _grouped(source, rule, params)
    del found["weights"]
    return {**found, "format": block_format(source.case)}


def _dequantize(source: Source, rule: Regime, params: Params) -> dict[str, Any]:
    shape = (source.case.T, source.layer.hidden)
    return {"blocks": rule.weight(source, "blocks", shape, block_format(source.case))}


def _activate(source: Source, rule: Regime, params: Params) -> dict[str, Any]:
    rows = _rows(source)
    values = rule.gate_up(source, len(rows.slots))
    return {"gate_up": plain(values, source.layer.dtype), "expert": rows.experts}


def _combine(source: Source, rule: Regime, params: Params) -> dict[str, Any]:
    rows = _rows(source)
    return {
        "down": _x(source, rule, "down", len(rows.slots)),
        "rows": rows.slots,
        "weights": plain(rule.weights(source), "fp32"),
    }


def _omni_route(source: Source, rule: Regime, params: Params) -> dict[str, Any]:
    n, dtype = side(source.layer.experts), source.layer.dtype
    return {
        name: plain(rule.tokens(source, name, source.case.T, n), dtype)
        for name in ("logits_x", "logits_y")
    }


def _omni_backward(source: Source, rule: Regime, params: Params) -> dict[str, Any]:
    layer = source.layer
    values = rule.tokens(source, "d_scores", source.case.T, layer.top_k)
    return {
        "d_scores": plain(values, layer.dtype),
        "ids": source.ids,
        "n": side(layer.experts),
    }


def _omni_experts(source: Source, rule: Regime, params: Params) -> dict[str, Any]:
    layer = source.layer
    shape = (layer.experts, layer.hidden)
    return {
        **_experts(source, rule, params),
        "up": rule.weight(source, "up", shape, layer.dtype),
        "down": rule.weight(source, "down", shape, layer.dtype),
    }


_INPUTS: dict[str, Callable[[Source, Regime, Params], dict[str, Any]]] = {
    "route": lambda source, rule, params: _logits(source, rule),
    "quantize": lambda source, rule, params: {
        "x": _x(source, rule), "format": block_format(source.case)
    },
    "dequantize": _dequantize,
    "permute": lambda source, rule, params: {"ids": source.ids},
    "grouped_quantize": _grouped_quantize,
    "grouped_gemm": _grouped,
    "activate": _activate,
    "activate+quantize": lambda source, rule, params: {
        **_activate(source, rule, params), "format": block_format(source.case)
    },
    "experts": _experts,
    "combine": _combine,
    "moe": lambda source, rule, params: {
        "x": _x(source, rule), **_logits(source, rule)
    },
    "omni_route": _omni_route,
    "omni_route_backward": _omni_backward,
    "omni_experts": _omni_experts,
}  # fmt: skip

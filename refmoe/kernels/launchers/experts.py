"""The experts between routing and combine: rows prepared, two GEMMs, and the sum."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from oracle.params import Params
from oracle.spec import BlockFormat, Layer
from refmoe.kernels.foresight import foreseen
from refmoe.kernels.launch import Kernel, blocks_for, check
from refmoe.kernels.launchers.backends import Backend, backend
from refmoe.kernels.launchers.combine import combine_rows
from refmoe.kernels.launchers.formats import TYPES
from refmoe.kernels.launchers.gemm import Gemm
from refmoe.kernels.launchers.operands import Matrix
from refmoe.kernels.launchers.permute import IDS, Sorted, sort_slots
from refmoe.kernels.launchers.prepare import Prepared, canonical
from refmoe.kernels.launchers.quantize import quantize

#: The torch types of the names that a layer uses.
DTYPES = {name: dtype for dtype, name in TYPES.items()}
Local = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Rows:
    """What the first GEMM reads: x itself through the slots, or rows of their own.

    Shapes: x: [T, H] and slots i32[P], or x: [P, H] and slots None
    """

    x: Matrix
    slots: torch.Tensor | None


@foreseen
def experts(
    x: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    params: Params,
    layer: Layer,
    *,
    prepared: Prepared | None = None,
    local: Local = None,
    tactic: str | Backend | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The weighted sum of the chosen experts' MLPs, [T, H] of `dtype`, the layer's.

    Shapes: x: f[T, H]; ids: i32 or i64 [T, k]; weights: f[T, k]

    Ids outside `local` (None: all experts) contribute nothing; `params` holds the local
    experts. Identity experts are added by the rank that starts at 0. `tactic` names the
    GEMM backend (`backends.names`).

    Raises TypeError and ValueError for tensors and layers that do not fit.
    """
    gemm = backend(tactic)
    made, down = expert_rows(x, ids, weights, params, layer, prepared, local, gemm)
    return combined(x, ids, weights, made, down, layer, local, dtype=dtype)


def expert_rows(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, params: Params,
    layer: Layer, prepared: Prepared | None, local: Local, gemm: Backend,
) -> tuple[Sorted, torch.Tensor]:  # fmt: skip
    """The slots by expert, and each row's output before it is weighted, f32[P, H]."""
    check_experts(x, ids, weights, params, layer, local)
    weights = weights.float()
    made = sort_slots(ids, layer.experts, local=local)
    rows = prepared_rows(x, weights, made, params, layer)
    return made, through(rows, made.starts, weights, params, layer, prepared, gemm)


def prepared_rows(
    x: torch.Tensor, weights: torch.Tensor, made: Sorted, params: Params, layer: Layer
) -> Rows:
    """x in the type or the block format that the first GEMM takes, weighted if so."""
    form = layer.activations
    if layer.weight_on != "input":
        return Rows(taken(x, form, params.x_scale), made.rows)
    dtype = DTYPES[form] if isinstance(form, str) else torch.float32
    rows = torch.empty((len(made.rows), x.shape[1]), dtype=dtype, device=x.device)
    names = f"{TYPES[x.dtype]}, {TYPES[dtype]}"
    Kernel("rows.cu", f"weigh_rows<{names}>")(
        (len(rows), blocks_for(x.shape[1], 128)), 128, x, made.rows,
        np.int32(weights.numel()), np.int32(weights.shape[1]), weights, rows,
        x.shape[1], device=x.device,
    )  # fmt: skip
    return Rows(taken(rows, form, params.x_scale), None)


def through(
    rows: Rows, starts: torch.Tensor, weights: torch.Tensor, params: Params,
    layer: Layer, prepared: Prepared | None, gemm: Backend,
) -> torch.Tensor:  # fmt: skip
    """Both GEMMs and what lies between: each row's output, not weighted yet, f32[P, H].

    Shapes: starts: i32[E + 1]; weights: f32, of the slots [T, k] where rows have some,
    else of the rows [P, 1]
    """
    prepared = prepared or canonical(params)
    weighted = layer.weight_on == "intermediate"
    hidden = gemm(
        Gemm(
            rows.x, prepared.gate_up, starts, DTYPES[layer.dtype], slots=rows.slots,
            choices=weights.shape[1], bias=prepared.gate_up_bias,
            weights=weights if weighted else None, activation=layer.activation,
            constants=params, gate_first=prepared.gate_first,
            columns=layer.intermediate,
        )
    )  # fmt: skip
    down = Gemm(
        requantized(hidden, params, layer), prepared.down, starts, torch.float32,
        bias=prepared.down_bias, columns=layer.hidden,
    )  # fmt: skip
    return gemm(down)


def combined(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, made: Sorted,
    down: torch.Tensor, layer: Layer, local: Local, *,
    shared: torch.Tensor | None = None, gate: torch.Tensor | None = None,
    factor: float = 1.0, dtype: torch.dtype | None = None,
) -> torch.Tensor:  # fmt: skip
    """The rows weighted and added, the routed scale, and what joins once: [T, H]."""
    routing = layer.routing
    identity = None
    if routing.zero_experts and (local is None or local[0] == 0):
        identity = (ids.int(), x.to(down.dtype), layer.experts)
    return combine_rows(
        down, made.inverse, weights if layer.weight_on == "output" else None,
        scale=routing.scale if routing.scale_on == "sum" else 1.0, shared=shared,
        gate=gate, factor=factor, identity=identity, dtype=dtype or DTYPES[layer.dtype],
    )  # fmt: skip


def requantized(hidden: torch.Tensor, params: Params, layer: Layer) -> Matrix:
    """The intermediate as the second GEMM takes it: quantised if the layer says so."""
    form = layer.requantize
    if isinstance(form, str):
        return hidden
    return taken(hidden, form, params.intermediate_scale)


def taken(
    x: torch.Tensor, form: str | BlockFormat, scale: torch.Tensor | None
) -> Matrix:
    """x as a GEMM of the layer takes it: in a plain type, or quantised by `scale`.

    Inside a layer NaN and Inf propagate where the format alone calls them an error.
    """
    if isinstance(form, str):
        return x.to(DTYPES[form])
    if form.nonfinite == "error":
        form = replace(form, nonfinite="propagate")
    return quantize(x, form, global_scale=scale)


def check_experts(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, params: Params,
    layer: Layer, local: Local,
) -> None:  # fmt: skip
    """Raise TypeError or ValueError naming the first argument that does not fit."""
    check("experts", "x", x, tuple(TYPES), (None, layer.hidden))
    tokens = len(x)
    check("experts", "ids", ids, tuple(IDS), (tokens, None), x.device)
    check("experts", "weights", weights, tuple(TYPES), tuple(ids.shape), x.device)
    if layer.dtype not in DTYPES:
        raise ValueError(
            f"experts: dtype={layer.dtype!r}; the kernels compute in fp32, take fp32, "
            "bf16 or fp16"
        )
    params.check(layer, experts=None if local is None else local[1] - local[0])
    if layer.routing.zero_experts and layer.weight_on != "output":
        raise ValueError(
            f"experts: identity experts take their weight on the output, not on the "
            f"{layer.weight_on}; use weight_on='output'"
        )

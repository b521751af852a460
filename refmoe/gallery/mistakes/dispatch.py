"""Mistakes of dispatch: one of several kernels is wrong, for some sizes alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from oracle.numerics import Numerics
from oracle.params import Params
from oracle.spec import BlockFormat, Layer
from refmoe.case import Case
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

mistake = decorator("mistake", group="dispatch")


@mistake("routed", reference="aiter#4451", shows="at most 32 tokens")
def small_batches_are_zero(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """The kernel of up to 32 tokens writes nothing."""
    total = stage(x, ids, weights, params, layer, taps)
    return torch.zeros_like(total) if len(x) <= 32 else total


@mistake("routed", reference="aiter#3933", shows="3 or 4 tokens")
def bucket_of_four(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """The kernel of 3 and 4 tokens exchanges two of them."""
    total = stage(x, ids, weights, params, layer, taps)
    return total.roll(1, 0) if len(x) in (3, 4) else total


@mistake(
    "routed", reference="aiter#4041", models=("deepseek-v3", "deepseek-v4-flash"),
    shows="fewer than 16 tokens, quantised activations",
)  # fmt: skip
def quantised_path_below_16_tokens(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """Fewer than 16 tokens are not quantised."""
    if len(x) < 16 and isinstance(layer.activations, BlockFormat):
        layer = replace(layer, activations=layer.dtype)
    return stage(x, ids, weights, params, layer, taps)


@mistake("routed", shows="a single token")
def single_token_unweighted(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """The kernel of one token forgets the routing weights."""
    if len(x) == 1:
        weights = torch.ones_like(weights)
    return stage(x, ids, weights, params, layer, taps)


@mistake("gemm", reference="DeepGEMM#268", shows="an expert with 1 to 63 rows")
def masked_gemm_below_64_rows(
    stage: Stage, x: Tensor, weights: Any, offsets: Tensor
) -> Tensor:
    """The last row of an expert with fewer than 64 is that before it."""
    y = stage(x, weights, offsets)
    counts = offsets.diff()
    last = offsets[1:][(counts > 1) & (counts < 64)] - 1
    y[last] = y[last - 1]
    return y


@mistake("gemm", shows="an expert with more than 128 rows")
def second_tile_of_rows(
    stage: Stage, x: Tensor, weights: Any, offsets: Tensor
) -> Tensor:
    """Row 128 of an expert is computed as its row 0."""
    y = stage(x, weights, offsets)
    starts = offsets[:-1][offsets.diff() > 128]
    y[starts + 128] = y[starts]
    return y


@mistake("gemm", op="experts", shows="H no multiple of 64")
def columns_behind_the_last_tile(
    stage: Stage, x: Tensor, weights: Any, offsets: Tensor
) -> Tensor:
    """Columns behind the last whole tile of 64 stay zero."""
    y = stage(x, weights, offsets)
    y[:, y.shape[1] // 64 * 64 :] = 0.0
    return y


@mistake("matmul", reference="sglang#9346", shows="K no multiple of 64")
def products_behind_the_last_tile(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """Products behind the last whole tile of 64 are left out."""
    depth = x.shape[1] // 64 * 64
    return stage(x[:, :depth], weight[:, :depth])


@mistake(
    "moe", numerics=Numerics(output="fp32"),
    shows="the layer in one call, beside its ops one by one",
)  # fmt: skip
def one_call_without_renormalising(
    stage: Stage,
    x: Tensor,
    logits: Tensor,
    params: Params,
    layer: Layer,
    *,
    token_ids: Tensor | None = None,
) -> Tensor:
    """The kernel of the whole layer has a router of its own, which does not divide."""
    routing = replace(layer.routing, renormalize="none", order="score_then_topk")
    layer = replace(layer, routing=routing)
    out: Tensor = stage.honest(x, logits, params, layer, token_ids=token_ids)
    return out


def _two_tactics(case: Case) -> tuple[str, str]:
    return "narrow", "wide"


@mistake(
    "moe", reference="flashinfer#3197, flashinfer#4841, sglang#34629",
    attributes={"tactics": _two_tactics}, shows="every tactic, not the first alone",
)  # fmt: skip
def second_tactic_drops_a_tile(
    stage: Stage,
    x: Tensor,
    logits: Tensor,
    params: Params,
    layer: Layer,
    *,
    token_ids: Tensor | None = None,
    tactic: str = "narrow",
) -> Tensor:
    """Of two tactics the second leaves the last columns out."""
    out: Tensor = stage.honest(x, logits, params, layer, token_ids=token_ids)
    if tactic == "wide":
        out[:, -16:] = 0.0
    return out


@mistake("matmul", shows="K above 256")
def products_from_256_on(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """A loop over K runs four tiles of 64 and no more."""
    return stage(x[:, :256], weight[:, :256])

"""Mistakes of the activation: clamps, constants, gates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from oracle.params import Blocks, Params
from oracle.spec import Activation, Layer
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

mistake = decorator("mistake", group="activation")
_CLAMPED = ("gpt-oss-120b", "deepseek-v4-flash")
_CLAMP_ISSUES = "vllm#41935, TensorRT-LLM#13767"


@mistake(
    "activation", reference="sglang#39920, sglang#39939", models=_CLAMPED,
    shows="gate or up beyond the limit",
)  # fmt: skip
def no_clamp(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """The limit is dropped."""
    return stage(gate_up, params, replace(kind, limit=None), owner)


@mistake(
    "routed", reference=_CLAMP_ISSUES, models=_CLAMPED,
    shows="gate or up beyond the limit, block-scaled weights",
)  # fmt: skip
def no_clamp_on_the_quantised_path(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """The limit is dropped where the weights are block-scaled."""
    if isinstance(params.gate_up, Blocks):
        layer = replace(layer, activation=replace(layer.activation, limit=None))
    return stage(x, ids, weights, params, layer, taps)


@mistake(
    "activation", reference=_CLAMP_ISSUES, models=_CLAMPED,
    shows="a gate far below -limit, a small limit",
)  # fmt: skip
def gate_clamped_from_both_sides(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """The gate is clamped from below too."""
    if kind.limit and kind.gated:
        gate, up = gate_up.chunk(2, -1)
        gate_up = torch.cat([gate.clamp(min=-kind.limit), up], -1)
    return stage(gate_up, params, kind, owner)


@mistake(
    "activation", reference="sglang-jax#1358", models=_CLAMPED,
    shows="a gate beyond a small limit",
)  # fmt: skip
def clamp_after_the_curve(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """The gate is clamped after the sigmoid instead of before."""
    return stage(gate_up, params, replace(kind, clamp="after"), owner)


@mistake(
    "activation", reference="sglang-jax#1358", models=("step-3.7-flash-clamped",),
    shows="a gate beyond a small limit",
)  # fmt: skip
def clamp_before_the_curve(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """The gate is clamped before the sigmoid instead of after."""
    return stage(gate_up, params, replace(kind, clamp="before"), owner)


@mistake(
    "activation", reference=_CLAMP_ISSUES, models=_CLAMPED, shows="up below -limit"
)
def up_clamped_from_above_only(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """Up is clamped like the gate, from above alone."""
    if not kind.limit:
        return stage(gate_up, params, kind, owner)
    gate, up = gate_up.clamp(max=kind.limit).chunk(2, -1)
    return gate * torch.sigmoid(kind.alpha * gate) * (up + kind.beta)


@mistake(
    "activation", models=_CLAMPED, shows="a row of gates that are all far below zero"
)
def rows_of_closed_gates_are_zero(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """Rows whose gates are all below -limit are skipped and left at zero."""
    hidden = stage(gate_up, params, kind, owner)
    closed = gate_up.chunk(2, -1)[0] < -(kind.limit or torch.inf)
    return hidden.masked_fill(closed.all(-1, keepdim=True), 0.0)


@mistake("activation", reference="aiter#5271", models=_CLAMPED, shows="a limit of 0")
def limit_of_zero_clamps(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """A limit of 0, which means none, clamps gates from above and ups to 0."""
    if kind.limit == 0:
        gate, up = gate_up.chunk(2, -1)
        gate_up = torch.cat([gate.clamp(max=0.0), up * 0.0], -1)
    return stage(gate_up, params, kind, owner)


@mistake(
    "activation", reference="tilelang#3024", models=_CLAMPED, shows="NaN gates, a limit"
)
def nan_clamped_to_the_limit(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """min(NaN, limit) is the limit."""
    if kind.limit:
        gate_up = gate_up.where(~gate_up.isnan(), kind.limit)
    return stage(gate_up, params, kind, owner)


@mistake(
    "activation", reference="vllm#41935", models=_CLAMPED,
    shows="limits that differ from expert to expert",
)  # fmt: skip
def limits_per_expert_ignored(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """One limit for all experts, whatever theirs are."""
    return stage(gate_up, replace(params, limit=None), kind, owner)


@mistake(
    "activation", reference="sglang#28092, DeepGEMM#87", models=("gpt-oss-120b",),
    shows="beta = 1",
)  # fmt: skip
def beta_dropped(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """Up is taken instead of up + 1."""
    return stage(gate_up, params, replace(kind, beta=0.0), owner)


@mistake(
    "activation", reference="sglang#28092, DeepGEMM#87", models=("gpt-oss-120b",),
    shows="alpha = 1.702",
)  # fmt: skip
def alpha_dropped(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """The plain SiLU, alpha 1."""
    return stage(gate_up, params, replace(kind, alpha=1.0), owner)


@mistake(
    "activation", reference="sonic-moe#2", models=("nemotron-3-nano-30b",),
    shows="experts without a gate",
)  # fmt: skip
def always_gated(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """Experts without a gate go through SwiGLU, their one half as both."""
    if kind.gated:
        return stage(gate_up, params, kind, owner)
    return gate_up * gate_up * gate_up.sigmoid()


@mistake("activation", models=("gemma-4-26b-a4b",), shows="GELU by tanh")
def gelu_by_the_other_formula(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """GELU by erf where the model has the one by tanh."""
    return stage(gate_up, params, replace(kind, kind="geglu_erf"), owner)


@mistake(
    "shared", models=("hy4-preview",),
    shows="a shared expert without the limit of the others",
)  # fmt: skip
def shared_expert_clamped_too(
    stage: Stage, x: Tensor, params: Params, layer: Layer, gammas: Tensor
) -> Tensor:
    """The shared expert takes the routed experts' activation."""
    if layer.shared is not None:
        layer = replace(layer, shared=replace(layer.shared, activation=None))
    return stage(x, params, layer, gammas)

"""Honest elementary functions: approximations with declared errors."""

from __future__ import annotations

import math
from typing import Any

import torch

from oracle.numerics import PRESETS, Numerics
from oracle.spec import Activation, Routing
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

honest = decorator("honest")


def base_two(x: Tensor) -> Tensor:
    """e^x as 2^(x log2 e), the argument rounded and 22 bits of the result right."""
    power = (x * math.log2(math.e)).double()
    wrong = 1.0 + 0.9 * 2.0**-22 * torch.sin(power * 977.0).nan_to_num()
    return (torch.exp2(power) * wrong).float()


@honest("activation", numerics=PRESETS["triton"])
def fast_exponential(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """SwiGLU with an approximate exponential."""
    if kind.kind != "swiglu" or kind.limit or params_override(params):
        return stage(gate_up, params, kind, owner)
    gate, up = gate_up.chunk(2, -1)
    return gate / (1.0 + base_two(gate * -kind.alpha)) * (up + kind.beta)


def params_override(params: Any) -> bool:
    """Whether constants of the activation differ from expert to expert."""
    names = ("alpha", "beta", "limit")
    return any(getattr(params, name, None) is not None for name in names)


@honest("score", numerics=PRESETS["triton"])
def fast_softmax(stage: Stage, logits: Tensor, name: str) -> Tensor:
    """Softmax with an approximate exponential."""
    if name != "softmax":
        return stage(logits, name)
    power = base_two(logits - logits.amax(-1, keepdim=True))
    return power / power.sum(-1, keepdim=True)


@honest("score", numerics=PRESETS["flashinfer_trtllm"])
def sigmoid_from_tanh(stage: Stage, logits: Tensor, name: str) -> Tensor:
    """sigmoid as (tanh(x / 2) + 1) / 2."""
    if name != "sigmoid":
        return stage(logits, name)
    return 0.5 * torch.tanh(0.5 * logits) + 0.5


@honest("renormalize")
def reciprocal(stage: Stage, weights: Tensor, routing: Routing) -> Tensor:
    """Weights times the reciprocal of their sum."""
    if routing.renormalize != "sum":
        return stage(weights, routing)
    return weights * (1.0 / weights.sum(-1, keepdim=True))


@honest("weight", numerics=Numerics(subnormals="flush"))
def flushed(stage: Stage, weights: Any, expert: int) -> Tensor:
    """Subnormal numbers are taken as zero."""
    value = stage(weights, expert)
    return value.masked_fill(value.abs() < 2.0**-126, 0.0)

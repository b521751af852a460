"""The activations in plain torch, each operation rounded to the type of its input."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import relu

from oracle.spec import Activation


def activate(
    gate_up: torch.Tensor, kind: Activation, alpha: Any, beta: Any, limit: Any
) -> torch.Tensor:
    """The intermediate [R, I] from [R, 2I], or from [R, I] when ungated.

    alpha, beta and limit are numbers or one per row [R, 1]; a limit of 0 is off.
    """
    if not kind.gated:
        return curve(gate_up, kind.kind, 1.0)
    gate, up = gate_up.chunk(2, -1)
    # A wider constant would widen what it meets.
    alpha, beta = (
        constant.to(gate.dtype) if isinstance(constant, torch.Tensor) else constant
        for constant in (alpha, beta)
    )
    if kind.kind == "softcap":
        gate = torch.tanh(gate / kind.gate_cap) * kind.gate_cap * gate.sigmoid()
        return gate * (torch.tanh(up / kind.up_cap) * kind.up_cap)
    top = torch.as_tensor(limit, dtype=gate.dtype)
    top = top.where(top > 0, torch.inf)
    up = torch.maximum(torch.minimum(up, top), -top)
    if kind.clamp == "before":
        gate = torch.minimum(gate, top)
    gate = curve(gate, kind.kind, alpha)
    if kind.clamp == "after":
        gate = torch.minimum(gate, top)
    return gate * shifted(up, beta)


def shifted(up: torch.Tensor, beta: Any) -> torch.Tensor:
    """up + beta, where there is one."""
    return up if isinstance(beta, float) and not beta else up + beta


def curve(gate: torch.Tensor, name: str, alpha: Any) -> torch.Tensor:
    """The function that the gate goes through, or up where there is no gate."""
    if name in ("swiglu", "silu"):
        return gate * torch.sigmoid(gate * alpha)
    if name in ("geglu_erf", "gelu_erf"):
        return gate * ((1.0 + torch.erf(gate * 0.5**0.5)) * 0.5)
    if name == "geglu_tanh":
        inner = gate + gate * gate * gate * 0.044715
        return gate * ((1.0 + torch.tanh(inner * (2.0 / math.pi) ** 0.5)) * 0.5)
    return relu(gate).square() if name == "relu2" else gate

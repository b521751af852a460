"""Weights as the GEMMs read them, made once: as they are, or packed and padded."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from oracle.params import Params, Streamed, Weight
from refmoe.kernels.launchers.operands import Matrix


@dataclass(frozen=True, slots=True)
class Prepared:
    """Both weights and biases of the experts, in the order of rows that `gate_up` has.

    Shapes: gate_up: [E, 2I, H]; down: [E, H, I]; biases: [E, 2I], [E, H]
    """

    gate_up: Matrix
    down: Matrix
    gate_up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None


def canonical(params: Params) -> Prepared:
    """The weights as they are; ValueError for streamed ones."""
    return Prepared(
        _held("gate_up", params.gate_up), _held("down", params.down),
        params.gate_up_bias, params.down_bias,
    )  # fmt: skip


def _held(name: str, weight: Weight) -> Matrix:
    if isinstance(weight, Streamed):
        raise ValueError(
            f"prepare: {name} is streamed; the kernels need all experts at once, load "
            "them into one tensor"
        )
    return weight

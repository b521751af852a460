"""Values past 65504, where fp16 ends and bf16 does not."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.params import Weight
from oracle.spec import BlockFormat
from refmoe.regimes import randn
from refmoe.regimes.regime import Source

_BITS = 14


def tokens(source: Source, name: str, rows: int, columns: int) -> torch.Tensor:
    """Normal times 2^14, times 2^18 where no GEMM makes them larger."""
    bits = _BITS if name == "x" else _BITS + 4
    return randn.tokens(source, name, rows, columns) * 2.0**bits


def weight(
    source: Source, name: str, shape: tuple[int, ...], form: str | BlockFormat
) -> Weight:
    """Ordinary; of the second GEMM, which may follow a limit, times 2^14."""
    bits = _BITS if name.endswith("down") else 0
    return randn.weight(source, name, shape, form, bits=bits)


def gate_up(source: Source, rows: int) -> torch.Tensor:
    """Normal times 2^10: products of a gate and an up pass 2^16."""
    return randn.gate_up(source, rows) * 2.0**8


def weights(source: Source) -> torch.Tensor:
    """Uniform in (0, 2^-12): the sum is small again."""
    return randn.weights(source) * 2.0**-12


REGIME = replace(
    randn.REGIME,
    name="large",
    about="activations, gates and rows past 65504, weighted down again",
    bug="an intermediate kept in fp16, or clamped to its range",
    tokens=tokens,
    weight=weight,
    gate_up=gate_up,
    weights=weights,
    suits=("grouped_gemm", "activate", "combine", "moe"),
)

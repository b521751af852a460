"""What every stage of the plain port rounds and multiplies with."""

from __future__ import annotations

import torch

from oracle.numerics import Numerics

Tensor = torch.Tensor
TYPES = {
    "fp64": torch.float64, "fp32": torch.float32,
    "bf16": torch.bfloat16, "fp16": torch.float16,
}  # fmt: skip


class Arithmetic:
    """Float32 between declared rounding points; float64 where that accumulates."""

    def __init__(self, numerics: Numerics) -> None:
        self.numerics = numerics
        double = numerics.accumulate == "fp64"
        self.compute = torch.float64 if double else torch.float32

    def type(self, point: str) -> torch.dtype:
        """The type of a rounding point; that of the arithmetic where it is none."""
        name = getattr(self.numerics, point)
        return self.compute if name == "none" else TYPES[name]

    def rounded(self, tensor: Tensor, point: str) -> Tensor:
        """The tensor after a rounding point."""
        return tensor.to(self.type(point)).to(self.compute)

    def matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        """x weight^T; x [R, K], weight [N, K]."""
        return x @ weight.T

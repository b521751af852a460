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
    """Float32 between declared rounding points; float64 where that accumulates.

    Dequantised weights are held in float32, and the numerics come to say so.
    """

    def __init__(self, numerics: Numerics) -> None:
        double = numerics.accumulate == "fp64"
        self.compute = torch.float64 if double else torch.float32
        if numerics.dequantized == "none" and not double:
            numerics = numerics.but(dequantized="fp32")
        self.numerics = numerics

    def type(self, point: str) -> torch.dtype:
        """The type of a rounding point; that of the arithmetic where it is none."""
        name = getattr(self.numerics, point)
        return self.compute if name == "none" else TYPES[name]

    def rounded(self, tensor: Tensor, point: str) -> Tensor:
        """The tensor after a rounding point."""
        return self.cast(tensor, self.type(point)).to(self.compute)

    def cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """The tensor in another type, rounded once.

        torch takes float64 to 16 bits through float32. Rounding to odd on the way keeps
        what lies beside a tie beside it.
        """
        if tensor.dtype != torch.float64 or dtype.itemsize != 2:
            return tensor.to(dtype)
        near = tensor.float()
        lost = tensor - near.double()
        bits = near.view(torch.int32)
        toward = torch.where((lost > 0) == (tensor > 0), bits + 1, bits - 1)
        inexact = (lost != 0) & lost.isfinite()
        odd = torch.where(inexact & (bits % 2 == 0), toward, bits)
        return odd.view(torch.float32).to(dtype)

    def matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        """x weight^T; x [R, K], weight [N, K]."""
        return x @ weight.T

    def plain(self, tensor: Tensor) -> Tensor:
        """A tensor in the type of the arithmetic."""
        return tensor.to(self.compute)

    def total(self, rows: Tensor) -> Tensor:
        """The sum over the choices of [T, k, H], one after the other."""
        total = rows.new_zeros(rows.shape[0], rows.shape[2])
        for choice in range(rows.shape[1]):
            total = self.rounded(total + rows[:, choice], "combine")
        return total

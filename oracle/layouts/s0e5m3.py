"""NVFP4's E4M3 block scales as unsigned S0E5M3, Marlin's form of them.

A block scale s becomes s * 2^(7 + rescale) with 5 exponent bits (bias 15) and 3
mantissa bits: the upper byte of the fp16 number shifted left by one. The global scale
makes up for it. vLLM, marlin_utils_fp4.py.
"""

from __future__ import annotations

import torch

from oracle.layouts import require
from oracle.spec import choose

#: Exponent biases of the activation type and of E2M1 differ by this much.
_BIAS = {"bf16": 126, "fp16": 14}


def encode(scales: torch.Tensor, rescale: int = 0) -> torch.Tensor:
    """E4M3 codes to S0E5M3 codes of 2^(7 + rescale) times the value, exactly.

    Shapes: scales u8[...] -> u8[...]

    With bf16 activations a kernel reads a code below 128, a subnormal scale without its
    rescale, as about 0. Stacks that convert through fp16 store 0xF8 for every result of
    2^16 and more, which fp16 does not hold.
    Raises ValueError for a negative or NaN code and for a result of 2^17 and more.

    >>> encode(torch.tensor([0, 1, 0x38, 0x7E], dtype=torch.uint8)).tolist()
    [0, 104, 176, 246]
    """
    require.dtype("s0e5m3", scales, torch.uint8)
    codes = scales.to(torch.int32)
    _refuse(codes > 0x7E, codes, "is negative or NaN; give finite scales >= 0")
    exponent, mantissa = codes >> 3, codes & 7
    shift = _normalising(mantissa)
    subnormal = exponent == 0
    exponent = torch.where(subnormal, 1 - shift, exponent) + 15 + rescale
    mantissa = torch.where(subnormal, (mantissa << shift) & 7, mantissa)
    zero = codes == 0
    _refuse(
        ~zero & (exponent > 31), codes,
        f"times 2^{7 + rescale} passes 2^17; lower rescale={rescale}",
    )  # fmt: skip
    return torch.where(zero, 0, exponent * 8 + mantissa).to(torch.uint8)


def decode(codes: torch.Tensor, rescale: int = 0) -> torch.Tensor:
    """Undo `encode`. Shapes: codes u8[...] -> E4M3 codes u8[...].

    Raises ValueError for a code that no E4M3 scale encodes to.
    """
    require.dtype("s0e5m3", codes, torch.uint8)
    stored = codes.to(torch.int32)
    exponent, significand = (stored >> 3) - 15 - rescale, (stored & 7) + 8
    shift = (1 - exponent).clamp(0, 4)
    exact = (exponent <= 15) & ((significand >> shift) << shift == significand)
    zero = stored == 0
    normal = exponent * 8 + significand - 8
    value = torch.where(exponent >= 1, normal, significand >> shift)
    bad = ~zero & (~exact | (value > 0x7E))
    _refuse(bad, stored, f"encodes no E4M3 scale at rescale={rescale}")
    return torch.where(zero, 0, value).to(torch.uint8)


def rescale_of(scales: torch.Tensor) -> int:
    """The least rescale that sets the top bit of every scale but 0.

    Shapes: scales u8[...], E4M3 codes of all experts that share a global scale

    0 where no scale is subnormal in E4M3; else 1 to 3. For bf16 activations only.

    >>> rescale_of(torch.tensor([0, 3, 0x38], dtype=torch.uint8))
    2
    """
    require.dtype("s0e5m3", scales, torch.uint8)
    subnormal = scales[(scales > 0) & (scales < 8)].to(torch.int32)
    return int(_normalising(subnormal).max()) if subnormal.numel() else 0


def global_scale(
    scale: torch.Tensor, activation: str = "bf16", rescale: int = 0
) -> torch.Tensor:
    """The global scale that makes up for `encode` and for E2M1 read as `activation`.

    Shapes: scale f32[...] that decoding multiplies by -> f32[...]

    scale * 2^(126 - 7 - rescale) for bf16, scale * 2^(14 - 7 - rescale) for fp16.
    """
    choose("s0e5m3", "activation", activation, tuple(_BIAS))
    return torch.ldexp(scale, torch.tensor(_BIAS[activation] - 7 - rescale))


def original_global_scale(
    scale: torch.Tensor, activation: str = "bf16", rescale: int = 0
) -> torch.Tensor:
    """Undo `global_scale`, unless it overflowed. Shapes: scale f32[...] -> f32[...]."""
    choose("s0e5m3", "activation", activation, tuple(_BIAS))
    return torch.ldexp(scale, torch.tensor(7 + rescale - _BIAS[activation]))


def _normalising(mantissa: torch.Tensor) -> torch.Tensor:
    """The left shift that brings a 3-bit mantissa to 8 to 15 (0: 3)."""
    return 3 - (mantissa >= 2).to(torch.int32) - (mantissa >= 4).to(torch.int32)


def _refuse(bad: torch.Tensor, codes: torch.Tensor, why: str) -> None:
    if bool(bad.any()):
        raise ValueError(f"s0e5m3: scale code 0x{int(codes[bad][0]):02x} {why}")

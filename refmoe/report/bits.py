"""Values as the bits they are made of."""

from __future__ import annotations

import math

import torch

from refmoe.regimes.regime import TORCH

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def hexadecimal(value: float | int, dtype: str) -> str:
    """The bits of `value` in `dtype`, all digits shown; the number if it is none.

    >>> hexadecimal(1.203125, "bf16"), hexadecimal(1.203, "bf16")
    ('0x3f9a', '1.203')
    """
    if dtype not in TORCH:
        return hex(value) if isinstance(value, int) else repr(value)
    bits = _bits(float(value), dtype)
    same = float(_value(bits, dtype)) == value or math.isnan(value)
    return _hex(bits, dtype) if same else repr(float(value))


def interval(low: float, high: float, dtype: str) -> str:
    """The least and the greatest value of `dtype` within low..high, in bits.

    >>> interval(1.0, 1.01, "bf16")
    '0x3f80..0x3f81'
    """
    first, last = _inside(low, dtype, 1), _inside(high, dtype, -1)
    if first == last:
        return first
    return f"{first}..{last}"


def _inside(edge: float, dtype: str, step: int) -> str:
    """The bits of the value next to `edge` on the side of `step`."""
    bits = _bits(edge, dtype)
    value = float(_value(bits, dtype))
    if math.isfinite(edge) and (value - edge) * step < 0:
        # Bits count up with magnitude: toward zero is down, across zero changes sign.
        if value == 0.0:
            bits = 1 if step > 0 else (1 << (8 * TORCH[dtype].itemsize - 1)) | 1
        else:
            bits += step if value > 0 else -step
    return _hex(bits, dtype)


def _bits(value: float, dtype: str) -> int:
    kind = TORCH[dtype]
    tensor = torch.tensor(value, dtype=torch.float64).to(kind)
    bits = int(tensor.view(_INTEGERS[kind.itemsize]))
    return bits & ((1 << 8 * kind.itemsize) - 1)


def _value(bits: int, dtype: str) -> torch.Tensor:
    kind = TORCH[dtype]
    size = 8 * kind.itemsize
    signed = bits - (1 << size) if bits >> (size - 1) else bits
    return torch.tensor(signed, dtype=_INTEGERS[kind.itemsize]).view(kind).double()


def _hex(bits: int, dtype: str) -> str:
    return f"0x{bits:0{2 * TORCH[dtype].itemsize}x}"

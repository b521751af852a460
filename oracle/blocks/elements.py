"""Codes of values that have met their scale, by table where one look-up is exact."""

from __future__ import annotations

from functools import lru_cache

import torch

from oracle.formats import decode, encode, get
from oracle.spec import BlockFormat, Rounding


def codes_of(scaled: torch.Tensor, format: BlockFormat) -> torch.Tensor:
    """The saturated code of each scaled value.

    Shapes: scaled f64, f32 or bf16 [...] -> [...] of the element's storage type

    Every bf16 value has its code in a table. A float32 value has the code of its upper
    half with the lowest bit set where anything of the lower half is: that neither
    crosses nor meets a value or a tie of a format with up to five mantissa bits, whose
    values and ties end at bit 6 of bf16's seven. All else is rounded in float64.
    """
    element = get(format.element)
    jammed = element.kind == "float" and element.mantissa <= 5
    if scaled.dtype is torch.bfloat16:
        index = scaled.view(torch.int16).to(torch.int32)
    elif scaled.dtype is torch.float32 and jammed:
        bits = scaled.view(torch.int32)
        index = (bits & 0xFFFF).add_(0xFFFF).bitwise_or_(bits).bitwise_right_shift_(16)
    else:
        codes = encode(scaled, format.element, format.rounding)
        if format.keep_negative_zero or element.kind != "float":
            return codes
        return codes.masked_fill_(codes == 1 << (element.bits - 1), 0)
    table = _table(
        format.element, format.rounding, format.keep_negative_zero, scaled.device
    )
    index = index.add_(32768)
    return table.index_select(0, index.reshape(-1)).view(scaled.shape)


@lru_cache(maxsize=64)
def _table(
    name: str, rounding: Rounding, keep_negative_zero: bool, device: torch.device
) -> torch.Tensor:
    """Codes of all bf16 values, those with the sign bit first."""
    patterns = torch.arange(-32768, 32768, device=device)
    codes = encode(decode(patterns, "bf16"), name, rounding)
    element = get(name)
    if not keep_negative_zero and element.kind == "float":
        codes[codes == 1 << (element.bits - 1)] = 0
    return codes

"""Element formats as data: widths, bias, largest value, codes of NaN and Inf.

Sources: OCP Microscaling v1.0, section 5 (E2M1, E2M3, E3M2, E8M0, INT8); Micikevicius
et al. 2209.05433 (E4M3, E5M2); IEEE 754 (fp16, fp32, fp64).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["float", "scale", "integer"]


@dataclass(frozen=True, slots=True)
class ElementFormat:
    """One code per value: sign, exponent and mantissa, or two's complement.

    ``float``: (-1)^s 2^(e - bias) 1.m, and 2^(1 - bias) 0.m where the exponent is 0.
    ``scale``: 2^(code - bias), no sign, no zero, the last code NaN (E8M0).
    ``integer``: code * 2^-mantissa, two's complement; encoding stays within +-maximum
    where `symmetric`, else it may use the most negative code.

    `infinity` and `nan` are the codes of +Inf and of the canonical NaN, None where the
    format has none. Without Inf an overflow that must not saturate becomes NaN; without
    NaN either, it saturates all the same, and NaN encodes as `nan_stand_in`.
    """

    name: str
    bits: int
    mantissa: int
    bias: int
    maximum: float
    kind: Kind = "float"
    infinity: int | None = None
    nan: int | None = None
    nan_stand_in: int = 0
    symmetric: bool = False

    @property
    def minimum_exponent(self) -> int:
        """Exponent of the least normal value (E8M0: of the least value)."""
        return -self.bias if self.kind == "scale" else 1 - self.bias

    @property
    def maximum_exponent(self) -> int:
        """Exponent of the largest power of two that is representable."""
        if self.kind == "integer":
            return self.bits - 2 - self.mantissa
        return int(torch.frexp(torch.tensor(self.maximum, dtype=torch.float64))[1]) - 1

    @property
    def quantum(self) -> float:
        """Distance between the values next to zero."""
        if self.kind == "integer":
            return 2.0**-self.mantissa
        return 2.0 ** (self.minimum_exponent - self.mantissa)

    @property
    def least_normal(self) -> float:
        """The least normal value; 0 for integers, which have no subnormals."""
        return 0.0 if self.kind == "integer" else 2.0**self.minimum_exponent

    @property
    def lowest(self) -> float:
        """The most negative value that encoding yields."""
        if self.kind == "scale":
            return self.least_normal
        if self.kind == "integer" and not self.symmetric:
            return -self.maximum - self.quantum
        return -self.maximum

    @property
    def storage(self) -> torch.dtype:
        """The type that codes have: u8 for floats of up to eight bits, else signed."""
        if self.kind == "integer":
            return torch.int8
        if self.bits <= 8:
            return torch.uint8
        return {16: torch.int16, 32: torch.int32, 64: torch.int64}[self.bits]


def _ieee(name: str, bits: int, mantissa: int) -> ElementFormat:
    exponents = bits - 1 - mantissa
    bias = 2 ** (exponents - 1) - 1
    infinity = (2**exponents - 1) << mantissa
    # E5M2 as NVIDIA writes it (all ones); the wider types as a quiet NaN.
    quiet = 2**mantissa - 1 if bits == 8 else 1 << (mantissa - 1)
    maximum = (2.0 - 2.0**-mantissa) * 2.0**bias
    return ElementFormat(
        name, bits, mantissa, bias, maximum, infinity=infinity, nan=infinity + quiet
    )


FORMATS: dict[str, ElementFormat] = {
    entry.name: entry
    for entry in (
        ElementFormat("e2m1", 4, 1, 1, 6.0, nan_stand_in=0x7),
        ElementFormat("e2m3", 6, 3, 1, 7.5, nan_stand_in=0x1F),
        ElementFormat("e3m2", 6, 2, 3, 28.0, nan_stand_in=0x1F),
        ElementFormat("e4m3", 8, 3, 7, 448.0, nan=0x7F),
        _ieee("e5m2", 8, 2),
        ElementFormat("e8m0", 8, 0, 127, 2.0**127, "scale", nan=0xFF),
        ElementFormat("int8", 8, 0, 0, 127.0, "integer"),
        ElementFormat("int4", 4, 0, 0, 7.0, "integer"),
        ElementFormat("mxint8", 8, 6, 0, 127 / 64, "integer", symmetric=True),
        _ieee("bf16", 16, 7),
        _ieee("fp16", 16, 10),
        _ieee("fp32", 32, 23),
        _ieee("fp64", 64, 52),
    )
}


def get(name: str) -> ElementFormat:
    """The element format called `name`; ValueError lists the known and near ones.

    >>> get("e4m3").maximum, get("e4m3").maximum_exponent
    (448.0, 8)
    """
    if name in FORMATS:
        return FORMATS[name]
    near = difflib.get_close_matches(str(name), FORMATS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"unknown element format {name!r}: {hint}known are {', '.join(FORMATS)}"
    )

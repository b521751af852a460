"""Values on the boundaries of rounding: what tells scale rules and tie rules apart."""

from __future__ import annotations

from dataclasses import replace

import torch

from refmoe.generator import power_of_two
from refmoe.regimes import randn
from refmoe.regimes.regime import Source

_RUN = 32
#: Leading values of a block: powers of two, the largest elements of FP4 (6), FP6 (7.5,
#: 28) and FP8 (448, 57344) and the neighbours of each in bf16, the thresholds of the
#: even rule (1.75 and 1.9375) among them; zero for a block of zeros.
_LEADING = (
    *(
        value + step * 2.0**-7
        for value in (1.0, 1.5, 1.75, 1.875, 1.9375)
        for step in (-1, 0, 1)
    ),
    0.0,
)
#: Exponents of a block: ordinary ones, and those whose scale byte is 0 or close to it.
_EXPONENTS = (*range(-6, 7), *range(-126, -112))

#: How much further down the values of a run lie than its leading one: codes of E4M3 are
#: subnormal from 2^-14 of a block's largest value on, those of E5M2 from 2^-29 on.
_DEPTHS = (0, 0, 0, 0, 11, 26)
#: An ulp of fp32, relative to a power of two.
_BESIDE = 2.0**-23


def tokens(source: Source, name: str, rows: int, columns: int) -> torch.Tensor:
    """A leading value a run of 32, the rest quarters of its power of two, down to 2^-6.

    The quarters lie on the midpoints between codes of FP4, and scaled down by powers of
    two on those of FP6 and FP8; a third of the runs reaches subnormal codes of FP8. In
    fp32 half of all values lie an ulp or two beside what they are in 16 bits.
    """
    stream = source.stream(name)
    runs = (rows, -(-columns // _RUN))
    exponents = stream.substream("exponents").choose(runs, _EXPONENTS)
    leading = stream.substream("leading").choose(runs, _LEADING)
    size = power_of_two(exponents.long()).repeat_interleave(_RUN, dim=1)[:, :columns]
    shape = (rows, columns)
    quarters = stream.integers(shape, -7, 7).double() / 4.0
    down = stream.substream("down").integers(shape, 0, 6)
    depth = stream.substream("depth").choose(runs, _DEPTHS).long()
    down += depth.repeat_interleave(_RUN, dim=1)[:, :columns]
    quarters = quarters * power_of_two(-down)
    place = torch.arange(columns) % _RUN == 0
    signs = stream.substream("signs").choose(shape, (-1.0, 1.0))
    leading = leading.repeat_interleave(_RUN, dim=1)[:, :columns] * signs
    blank = leading == 0.0
    values = torch.where(place, leading, quarters.masked_fill(blank, 0.0)) * size
    beside = stream.substream("beside").choose(shape, (-1.0, 0.0, 0.0, 1.0))
    return values * (1.0 + beside * _BESIDE)


REGIME = replace(
    randn.REGIME,
    name="rounding",
    about="scale thresholds, ties between codes, least scales, blocks of zeros",
    bug="scale rules and tie rules of quantisers, division by a zero amax",
    tokens=tokens,
    suits=("quantize", "grouped_quantize"),
)

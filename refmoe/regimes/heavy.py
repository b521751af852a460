"""The heavy-tailed regime: limits reached, neighbouring blocks binades apart."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.formats import encode, get
from oracle.params import Weight
from oracle.spec import BlockFormat
from refmoe.generator import power_of_two
from refmoe.regimes import randn
from refmoe.regimes.regime import Source, plain

#: Exponents are drawn from this many consecutive integers, around zero.
BINADES = 13
_LOW, _HIGH = -(BINADES // 2), BINADES // 2
_RUN = 32


def tokens(source: Source, name: str, rows: int, columns: int) -> torch.Tensor:
    """Normal times 2**e, one e per token and run of 32 columns."""
    stream = source.stream(name)
    runs = stream.substream("runs").integers((rows, -(-columns // _RUN)), _LOW, _HIGH)
    spread = power_of_two(runs).repeat_interleave(_RUN, dim=1)[:, :columns]
    return stream.normal((rows, columns)) * spread


def weight(
    source: Source, name: str, shape: tuple[int, ...], form: str | BlockFormat
) -> Weight:
    """Scale exponents over 13 binades; every code, so the largest elements too."""
    stream = source.stream(name)
    size = randn.half_bits(shape[-1])
    if isinstance(form, str):
        shape_of_runs = (*shape[:-1], -(-shape[-1] // _RUN))
        runs = stream.substream("runs").integers(
            shape_of_runs, _LOW - size, _HIGH - size
        )
        spread = power_of_two(runs).repeat_interleave(_RUN, dim=-1)[..., : shape[-1]]
        return plain(stream.normal(shape) * spread, form)
    entry = get(form.element)
    codes = encode(stream.dyadic(shape) * entry.maximum, form.element)
    scales = randn.scale_shape(shape, form)
    size += entry.maximum_exponent
    exponents = stream.substream("exponents").integers(
        scales, _LOW - size, _HIGH - size
    )
    return randn.blocks(source, name, codes, exponents, form)


def logits(source: Source) -> torch.Tensor:
    """Ordinary logits times eight: saturated scores, vanishing weights."""
    return randn.logits(source) * 8.0


def gate_up(source: Source, rows: int) -> torch.Tensor:
    """Normal times 2**e per element, e in -6..6: far beyond any limit, and tiny."""
    shape = (rows, source.layer.gate_up_rows)
    stream = source.stream("gate_up")
    return stream.normal(shape) * power_of_two(
        stream.substream("runs").integers(shape, _LOW, _HIGH)
    )


REGIME = replace(
    randn.REGIME,
    name="heavy",
    about="heavy tails: limits reached, block exponents over 13 binades",
    bug="misplaced scales and lost clamps, which values of one size hide",
    tokens=tokens,
    logits=logits,
    weight=weight,
    gate_up=gate_up,
)

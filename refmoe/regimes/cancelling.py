"""Large exact terms that cancel and leave small exact ones."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.formats import encode, get
from oracle.params import Weight
from oracle.permutation import permute
from oracle.spec import BlockFormat
from refmoe.generator import power_of_two
from refmoe.regimes import exact, randn
from refmoe.regimes.regime import Source, plain

#: Partial sums grow to about 2^22 halves and more, of fp32's 2^24.
_BITS = 22
_GRID = (0.5, 1.0, 1.5)


def tokens(source: Source, name: str, rows: int, columns: int) -> torch.Tensor:
    """A quarter of 2^n, a half of -1, 0 and 1, a quarter of -2^n.

    Rows of `down` alternate so by their token's choices instead.
    """
    small = source.stream(name).integers((rows, columns), -1, 1).double()
    if name != "down":
        return torch.where(_large(columns), _size(source, columns), small)
    layer = source.layer
    ids = torch.where(source.ids >= layer.experts, -1, source.ids)
    choice = permute(ids, layer.experts).slots[:, None] % layer.top_k
    if layer.top_k < 3:
        return small
    ends = (choice == 0).double() - (choice == layer.top_k - 1).double()
    return torch.where(ends == 0, small, ends * 2.0 ** (_BITS - 2))


def weight(
    source: Source, name: str, shape: tuple[int, ...], form: str | BlockFormat
) -> Weight:
    """Halves up to 1.5: of one sign in each row's quarters, which mirror each other."""
    stream, columns = source.stream(name), shape[-1]
    sizes = stream.choose(shape, _GRID)
    own = stream.substream("row").choose((*shape[:-1], 1), (-1.0, 1.0))
    any_ = stream.substream("signs").choose(shape, (-1.0, 1.0))
    large = _large(columns)
    mirrored = torch.where(torch.arange(columns) < columns // 2, sizes, sizes.flip(-1))
    values = torch.where(large, mirrored * own, sizes * any_)
    if isinstance(form, str):
        return plain(values, form)
    exponents = torch.zeros(randn.scale_shape(shape, form), dtype=torch.int64)
    codes = encode(values, form.element)
    return randn.blocks(source, name, codes, exponents, form, powers=True)


def weights(source: Source) -> torch.Tensor:
    """One power of two for all choices of a token."""
    shift = source.stream("weights").integers((source.case.T, 1), 0, 3)
    return power_of_two(-shift).expand(-1, source.layer.top_k)


def _large(columns: int) -> torch.Tensor:
    """bool[columns]: the first and the last quarter."""
    place = torch.arange(columns)
    return torch.minimum(place, columns - 1 - place) < columns // 4


def _size(source: Source, columns: int) -> torch.Tensor:
    """f64[columns]: what the large columns hold, plus first and minus last."""
    bits = _BITS - (columns // 4).bit_length()
    bits = min(bits, get(source.layer.dtype).maximum_exponent)
    if source.case.op != "grouped_gemm" and not isinstance(
        source.layer.activations, str
    ):
        # Quantised, the small columns would be lost beside larger ones.
        bits = min(bits, 4)
    return 2.0**bits * (1.0 - 2.0 * (torch.arange(columns) >= columns // 2).double())


REGIME = replace(
    exact.REGIME,
    name="cancelling",
    about="large exact terms that cancel and leave small exact ones",
    bug="accumulators and partial sums of too few bits",
    tokens=tokens,
    logits=randn.logits,
    weight=weight,
    weights=weights,
    suits=("grouped_gemm", "combine", "omni_route_backward", "moe"),
)

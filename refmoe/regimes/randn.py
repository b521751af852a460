"""The ordinary regime: values as trained layers have them, of order one."""

from __future__ import annotations

import torch

from oracle.formats import encode, get
from oracle.params import Blocks, Weight
from oracle.spec import BlockFormat
from refmoe.generator import power_of_two
from refmoe.regimes.regime import Regime, Source, plain

#: Added to the logits of experts that the case's load leaves out.
_FAR = -16.0


def tokens(source: Source, name: str, rows: int, columns: int) -> torch.Tensor:
    """Approximately standard normal."""
    return source.stream(name).normal((rows, columns))


def logits(source: Source) -> torch.Tensor:
    """Normal; under a load other than uniform, its experts stand out."""
    shape = (source.case.T, source.layer.logits_columns)
    return source.stream("logits").normal(shape) + out_of_load(source)


def out_of_load(source: Source) -> torch.Tensor:
    """f64[columns of the logits]: what keeps experts away that get no token."""
    layer, case = source.layer, source.case
    columns = torch.zeros(layer.logits_columns, dtype=torch.float64)
    if case.load == "uniform":
        return columns
    tokens_of = torch.bincount(source.ids.reshape(-1), minlength=len(columns))
    left_out = tokens_of < case.T if case.load == "hot" else tokens_of == 0
    left_out[layer.routed_choices :] = False
    return _FAR * left_out.double()


def weight(
    source: Source,
    name: str,
    shape: tuple[int, ...],
    form: str | BlockFormat,
    *,
    bits: int = 0,
) -> Weight:
    """Normal with variance about 1 / K, times 2**bits; codes and scales of block
    formats are drawn directly, so that no quantiser takes part. Scales of neighbouring
    blocks differ."""
    stream = source.stream(name)
    if isinstance(form, str):
        return plain(stream.normal(shape) * 2.0 ** (bits - half_bits(shape[-1])), form)
    entry = get(form.element)
    codes = encode(stream.normal(shape) * (entry.maximum / 4), form.element)
    exponents = stream.substream("exponents").integers(scale_shape(shape, form), -1, 1)
    size = half_bits(shape[-1]) + entry.maximum_exponent - bits
    return blocks(source, name, codes, exponents + 1 - size, form)


def half_bits(depth: int) -> int:
    """About log2(sqrt(depth)), in integers."""
    return depth.bit_length() // 2


def scale_shape(shape: tuple[int, ...], form: BlockFormat) -> tuple[int, ...]:
    """Shape of the scales of a tensor of `shape`."""
    rows, columns = (
        size or whole or 1 for size, whole in zip(form.block, shape[-2:], strict=True)
    )
    return (*shape[:-2], -(-shape[-2] // rows), -(-shape[-1] // columns))


def blocks(
    source: Source,
    name: str,
    codes: torch.Tensor,
    exponents: torch.Tensor,
    form: BlockFormat,
    *,
    powers: bool = False,
) -> Blocks:
    """Blocks with scales of order 2**exponents.

    Scales that are no E8M0 get a random significand, unless `powers` asks for powers of
    two; where there is a global scale, it carries the exponents that E4M3 cannot.
    """
    if form.scale == "e8m0":
        return Blocks(codes, (exponents + 127).clamp(0, 254).to(torch.uint8), form)
    stream = source.stream(name).substream("significands")
    shape = tuple(exponents.shape)
    significand = 1.0 + (0.0 if powers else 0.5) * (stream.dyadic(shape) + 1.0)
    scale_of = power_of_two(exponents) * significand
    overall = None
    if form.global_scale:
        # Centres the block scales on 1, so that E4M3 holds six binades on either side.
        middle = int(exponents.median()) if exponents.numel() else 0
        scale_of = scale_of * 2.0**-middle
        factor = 1.0 if powers else 1.25
        overall = torch.full(
            codes.shape[:-2], factor * 2.0**middle, dtype=torch.float32
        )
    if form.scale in ("fp32", "bf16", "fp16"):
        scales = plain(scale_of, form.scale)
    else:
        scales = encode(scale_of, form.scale)
    return Blocks(codes, scales, form, overall)


def bias(source: Source, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Normal of order four, different in every expert."""
    return source.stream(name).normal(shape) * 4.0


def router_bias(source: Source) -> torch.Tensor:
    """Uniform in (-1, 1): of both signs, as large as the scores; 8 bits each."""
    return source.stream("router_bias").dyadic((source.layer.routed_choices,), 8)


def gate_up(source: Source, rows: int) -> torch.Tensor:
    """Normal of order four: limits are reached, gates have both signs."""
    columns = source.layer.gate_up_rows
    return source.stream("gate_up").normal((rows, columns)) * 4.0


def weights(source: Source) -> torch.Tensor:
    """Uniform in (0, 1), 8 bits each, so that bf16 holds them."""
    shape = (source.case.T, source.layer.top_k)
    return source.stream("weights").dyadic(shape, 8).abs()


def expert_scale(source: Source) -> torch.Tensor:
    """Uniform in (0.5, 1.5), 8 bits each."""
    shape = (source.layer.routed_choices,)
    return 1.0 + source.stream("expert_scale").dyadic(shape, 6) * 0.5


REGIME = Regime(
    "randn",
    "ordinary values: normal activations and weights, biases of order four",
    "structure: a wrong index, order, factor, format or missing term",
    tokens, logits, weight, bias, router_bias, gate_up, weights, expert_scale,
)  # fmt: skip

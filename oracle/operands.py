"""What the GEMMs see: x and the intermediate in the layer's block formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from oracle import bounds
from oracle.blocks import Quantised, dequantize, quantize_tap
from oracle.blocks.scales import is_power, scale_value
from oracle.formats import get
from oracle.numerics import CORRECT, Numerics
from oracle.params import Blocks, Params
from oracle.spec import BlockFormat, Layer
from oracle.trace import Tap


def exact_blocks(blocks: Blocks, numerics: Numerics) -> Tap:
    """What the blocks stand for, as an exact tap: f64[..., N, K]."""
    return Tap(dequantize(blocks), least_normal=least_normal(blocks, numerics))


def least_normal(blocks: Blocks, numerics: Numerics) -> float:
    """The element's least normal value times the largest scale.

    0 where that does not matter: for integers, and where codes never meet the unit.
    """
    least = get(blocks.format.element).least_normal
    if not least or not numerics.takes_codes or not blocks.scales.numel():
        return 0.0
    scale = scale_value(blocks.scales, blocks.format).nan_to_num_(nan=0.0).max()
    if blocks.global_scale is not None:
        scale = scale * blocks.global_scale.to(torch.float64).max()
    return least * float(scale)


def taken(given: torch.Tensor) -> Tap:
    """A stage's tensor as an exact tap; what it is stored in tells its subnormals."""
    return bounds.exactly(given) if given.is_floating_point() else Tap(given)


def operand(
    name: str,
    values: Tap | None,
    format: BlockFormat,
    scale: torch.Tensor | None,
    given: Mapping[str, torch.Tensor],
    numerics: Numerics,
) -> tuple[Tap, dict[str, Tap]]:
    """Values quantised to a block format and back, and the taps of their bytes.

    Shapes: values [R, K], or None where the bytes are given; scale f32[], a calibrated
    per-tensor scale. The taps are called `name`_codes and `name`_scales.

    Quantising what is exact is a contract of bytes and adds no radius; an uncertain
    value, or one that is divided approximately, has every scale and code that it may
    reach. Given bytes are taken as they are.
    Inside a layer a NaN or infinity is no error of the caller: it propagates.
    """
    if format.nonfinite == "error":
        format = replace(format, nonfinite="propagate")
    codes, scales = given.get(f"{name}_codes"), given.get(f"{name}_scales")
    source: Quantised | None = None
    if codes is not None and scales is not None:
        blocks = Blocks(codes, scales, format, scale)
        seen = exact_blocks(blocks, numerics)
    else:
        assert values is not None
        slack = division_slack(format, numerics)
        blocks, seen = quantize_tap(values, format, global_scale=scale, slack=slack)
        seen = replace(seen, least_normal=least_normal(blocks, numerics))
        source = Quantised(values, format, scale, slack, computed=name != "x")
    bytes_ = {
        f"{name}_codes": Tap(blocks.codes, quantised=source),
        f"{name}_scales": Tap(blocks.scales, quantised=source),
    }
    return seen, bytes_


def spans_rows(layer: Layer, params: Params) -> bool:
    """Whether what a token's GEMMs see depends on other tokens, through a scale.

    x that is quantised before it is permuted is not meant: it covers all tokens anyway.

    >>> from oracle.blocks import preset
    >>> one = torch.ones(1, 16, 16)
    >>> spans_rows(Layer(16, 16, 1, 1, requantize=preset("nvfp4")), Params(one, one))
    True
    """

    def spans(form: str | BlockFormat, scale: torch.Tensor | None) -> bool:
        if isinstance(form, str):
            return False
        return form.block[0] != 1 or (form.global_scale and scale is None)

    weighted = layer.weight_on == "input" and spans(layer.activations, params.x_scale)
    return weighted or spans(layer.requantize, params.intermediate_scale)


def division_slack(format: BlockFormat, numerics: Numerics) -> float:
    """The relative error of a quantiser's divisions beyond correct rounding.

    A block format fixes its bytes with correctly rounded divisions. Where the declared
    one errs by more, both results are within `divide.relative` and half an ulp of each
    other. Divisions by powers of two are exact whatever the unit does.

    >>> from oracle.blocks import preset
    >>> from oracle.numerics import PRESETS
    >>> division_slack(preset("mxfp4"), PRESETS["triton"])
    0.0
    """
    error = numerics.divide.relative
    if is_power(format) or error <= CORRECT.relative:
        return 0.0
    return min(error + CORRECT.relative, math.nextafter(1.0, 0.0))


def scale_runs(
    depth: int, numerics: Numerics, x: str | BlockFormat, weight: str | BlockFormat
) -> int:
    """Runs along K whose scales a kernel may apply to partial sums, one by one.

    Only scales that are no powers of two cost roundings there; a weight that is
    dequantised first has none left.

    >>> from oracle.blocks import preset
    >>> scale_runs(512, Numerics(), "bf16", preset("nvfp4"))
    32
    """
    forms = (x, weight if numerics.dequantized == "none" else "bf16")
    sizes = [
        form.block[1]
        for form in forms
        if isinstance(form, BlockFormat) and not is_power(form)
    ]
    size = math.gcd(*sizes)
    return -(-depth // size) if size else 1

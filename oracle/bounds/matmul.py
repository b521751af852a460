"""Matrix products of taps: the value, its worst case and its statistical bound."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.bounds.accumulation import FAMILY, dot_error
from oracle.bounds.arithmetic import add
from oracle.bounds.exactness import exact_sums, least_maximum
from oracle.bounds.radius import Radius, joint_probability, plus
from oracle.bounds.rounding import rounded
from oracle.numerics import Numerics
from oracle.trace import Tap

#: The sums of magnitudes are taken in fp32, whatever precision torch is set to (bf16
#: operands at worst: 2^-8 each), and raised by this to stay upper bounds.
_SLACK = 2.0**-6
#: Elements of w that are multiplied at a time: they stay in cache for every product.
_RUN = 2**18


def matmul(
    x: Tap,
    w: Tap,
    numerics: Numerics,
    *,
    bias: torch.Tensor | None = None,
    blocks: int = 1,
) -> Tap:
    """x w^T (+ bias) on the unit that `numerics` declares, not yet rounded any further.

    Shapes: x [R, K]; w [N, K]; bias [N]; the result [R, N].

    The bias starts the sum or is added last; where numerics.gemm is a type, the product
    is rounded to it first and the bias added in a step of its own.

    With S = sum |x w| (+ |bias|) and M = (S + |v|) / 2, the largest partial sum in any
    order: |got - v| <= c M + underflow + (1 + c)(what the radii of x and w carry over),
    c from `oracle.bounds.accumulation`. `blocks` counts the runs along K whose scales
    are applied to partial sums.

    The radius is 0 where every partial sum is representable on every admitted unit, in
    any order (`oracle.bounds.exactness`); Inf where a partial sum may overflow; 0 where
    v is NaN, or infinite while the sum of its finite products cannot overflow to the
    other infinity, as it then is in every order.

    Where x or w tell their least normal value, truncating units may align their
    subnormal elements (FP4 units: all elements) as if those were as large.

    The statistical bound, which truncating units have none of, holds where the low bits
    of products and partial sums are as good as random; structured sums (stagnation:
    many equal or tiny terms beside a large one) may exceed it, never the worst case.
    """
    if numerics.gemm != "none":
        inner = numerics.but(gemm="none")
        tap = matmul(x, w, inner, blocks=blocks)
        tap = rounded(tap, numerics.gemm, numerics)
        if bias is None:
            return tap
        wide = "fp64" if numerics.gemm == "fp64" else "fp32"
        return add(tap, Tap(bias.to(torch.float64)), wide, numerics)
    if numerics.subnormals == "flush":
        x, w = _flushed(x), _flushed(w)
    (rows, depth), width = x.value.shape, w.value.shape[0]
    left = torch.cat([x.value.to(torch.float32).abs_(), *_radii(x)])
    value, products = _products(x.value, left, w.value)
    total, size = products[0], value.abs()
    if bias is not None:
        bias = bias.to(torch.float64)
        total, size = total + bias.abs(), size + bias.abs()
        value = value + bias
    error = dot_error(
        numerics, depth, rows * width, blocks=blocks, bias=bias is not None
    )
    partial = (total + value.abs()).mul_(0.5)
    reach = {"total": total, "partial": partial, "value": size}[error.of]
    aligned = _aligned(x, w, numerics)
    exact = exact_sums(x, w, reach + aligned, numerics, bias)
    limit = least_maximum(numerics)
    settled = _settled(x.value, w.value, value, limit)
    # The value's own float64 sum.
    own = (depth + 2) * 2.0**-52

    def radius(factor: float, carried: Radius) -> torch.Tensor:
        result = (reach * (factor + own)).add_(error.underflow)
        result += aligned * error.alignment
        if carried is not None:
            result += carried * (1.0 + factor)
        if exact is not None:
            result.masked_fill_(exact, 0.0)
        return _open(result, settled, partial * (1.0 + factor), limit)

    worst, likely = _carried(products[1:], left, w)
    tap = Tap(value, radius(error.worst, worst))
    if error.likely is None and likely is worst:
        return tap
    # Statistics of the operands alone, where the unit allows none.
    factor = error.worst if error.likely is None else error.likely
    chance = joint_probability(x, w) + (0.0 if error.likely is None else FAMILY)
    return Tap(value, tap.worst, radius(factor, likely), min(1.0, chance))


def _products(
    x: torch.Tensor, left: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """x w^T, and upper bounds of left |w|^T for each run of rows of `left`.

    Shapes: x f64[R, K]; left f32[n R, K]; w f64[N, K]; f64[R, N] and n times f64[R, N].
    """
    values, magnitudes = [], []
    step = max(1, _RUN // max(1, w.shape[1]))
    for start in range(0, max(1, w.shape[0]), step):
        part = w[start : start + step]
        values.append(x @ part.T)
        magnitudes.append(left @ part.to(torch.float32).abs_().T)
    upper = _upper(torch.cat(magnitudes, 1), w.shape[1])
    count = left.shape[0] // x.shape[0] if x.shape[0] else 1
    return torch.cat(values, 1), list(upper.reshape(count, x.shape[0], w.shape[0]))


def _aligned(x: Tap, w: Tap, numerics: Numerics) -> torch.Tensor:
    """How much larger sum |x w| is with subnormal elements as large as normal ones.

    Shapes: f64[R, N], or [1, 1] of zero where no unit or no element makes a difference.
    """
    none = x.value.new_zeros(1, 1)
    whole = any(unit.group > 1 for unit in numerics.units)
    if not any(unit.biased for unit in numerics.units) or not x.value.numel():
        return none
    size, least, w_least = x.value.abs(), x.least_normal, w.least_normal
    spread = 0.0 if x.worst is None else x.worst
    if not whole and not bool(((size - spread < least) & (size + spread > 0)).any()):
        least = 0.0
    if not least and not w_least:
        return none
    across = w.value.abs().sum(1) * least if least else none[0]
    floors = size.sum(1, keepdim=True) * w_least + size.shape[1] * least * w_least
    return (across + floors).mul_(1.0 + 2.0**-30)


def _upper(sums: torch.Tensor, depth: int) -> torch.Tensor:
    """fp32 sums of `depth` products as float64 upper bounds.

    Each term loses a relative 2^-24, and a quantum where a product is below the range.
    """
    upper = sums.to(torch.float64).mul_(1.0 + _SLACK + depth * 2.0**-23)
    return upper.add_(depth * 2.0**-149)


def _radii(tap: Tap) -> list[torch.Tensor]:
    """The radii that the tap has, as f32: none, worst, or worst and likely."""
    radii = [radius for radius in (tap.worst, tap.likely) if radius is not None]
    return [radius.expand_as(tap.value).to(torch.float32) for radius in radii]


def _carried(
    products: list[torch.Tensor], left: torch.Tensor, w: Tap
) -> tuple[Radius, Radius]:
    """What the operands' radii add to the result, worst and likely.

    `products` are rx |w|^T, as far as x has radii; |x| rw + rx rw joins where w has.
    """
    worst, likely = (products[0], products[-1]) if products else (None, None)
    radii = _radii(w)
    if not radii:
        return worst, likely
    depth, rows = left.shape[1], left.shape[0] // (len(products) + 1)
    size = left[:rows]
    far = size + left[rows : 2 * rows] if products else size
    near = size + left[-rows:] if products else size
    wide = _upper(far @ radii[0].T, depth)
    narrow = (
        wide if len(radii) + len(products) <= 2 else _upper(near @ radii[-1].T, depth)
    )
    same = likely is worst and narrow is wide
    worst = wide if worst is None else worst + wide
    if same:
        return worst, worst
    return worst, narrow if likely is None else likely + narrow


def _open(
    radius: torch.Tensor, settled: torch.Tensor, reach: torch.Tensor, limit: float
) -> torch.Tensor:
    """Put Inf where a partial sum may overflow, 0 where the value is `settled`."""
    if float(reach.sum()) < limit and float(radius.sum()) < torch.inf:
        return radius
    radius = radius.masked_fill_(~(reach < limit) | radius.isnan(), torch.inf)
    return radius.masked_fill_(settled, 0.0)


def _settled(
    x: torch.Tensor, w: torch.Tensor, value: torch.Tensor, limit: float
) -> torch.Tensor:
    """Where x w^T is NaN or infinite in every order: bool[R, N]."""
    nan, infinite = value.isnan(), value.isinf()
    if not bool(infinite.any()):
        return nan
    x, w = (t.abs().nan_to_num(nan=0.0, posinf=0.0) for t in (x, w))
    return nan | (infinite & (x @ w.T < limit / 2))


def _flushed(tap: Tap) -> Tap:
    """The operand, each subnormal of it possibly read as zero."""
    size = tap.value.abs()
    flushed = (size < 2.0**-126) & (size > 0.0)
    if not bool(flushed.any()):
        return tap
    lost = size.masked_fill_(~flushed, 0.0)
    likely = None if tap.likely is None else plus(tap.likely, lost)
    return replace(tap, worst=plus(tap.worst, lost), likely=likely)

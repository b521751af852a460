"""Matrix products of taps: the value, its worst case and its statistical bound."""

from __future__ import annotations

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

Least = torch.Tensor | float


def matmul(
    x: Tap,
    w: Tap,
    numerics: Numerics,
    *,
    bias: torch.Tensor | None = None,
    blocks: int = 1,
    least_normals: tuple[Least, Least] = (0.0, 0.0),
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
    v is NaN or infinite, as it then is in every order.

    `least_normals` are the least normal magnitudes of the operands' elements (numbers,
    or tensors that broadcast to x and w: times the scale where blocks have one).
    Truncating units align a subnormal element as if it were that large, and FP4 units
    every element by its scale alone.

    The statistical bound, which truncating units have none of, holds where the low bits
    of products and partial sums are as good as random; structured sums (stagnation:
    many equal or tiny terms beside a large one) may exceed it, never the worst case.
    """
    if numerics.gemm != "none":
        inner = numerics.but(gemm="none")
        tap = matmul(x, w, inner, blocks=blocks, least_normals=least_normals)
        tap = rounded(tap, numerics.gemm, numerics)
        if bias is None:
            return tap
        wide = "fp64" if numerics.gemm == "fp64" else "fp32"
        return add(tap, Tap(bias.to(torch.float64)), wide, numerics)
    if numerics.subnormals == "flush":
        x, w = _flushed(x), _flushed(w)
    (rows, depth), width = x.value.shape, w.value.shape[0]
    left = torch.cat([_size(x.value, least_normals[0]), *_radii(x)])
    value, products = _products(x.value, left, w.value, least_normals[1])
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
    exact = exact_sums(x, w, reach, numerics, bias)
    limit = least_maximum(numerics)
    # The value's own float64 sum.
    own = (depth + 2) * 2.0**-52

    def radius(factor: float, carried: Radius) -> torch.Tensor:
        result = (reach * (factor + own)).add_(error.underflow)
        if carried is not None:
            result += carried * (1.0 + factor)
        if exact is not None:
            result.masked_fill_(exact, 0.0)
        return _open(result, value, partial * (1.0 + factor), limit)

    worst, likely = _carried(products[1:], left, w)
    tap = Tap(value, radius(error.worst, worst))
    if error.likely is None and likely is worst:
        return tap
    # Statistics of the operands alone, where the unit allows none.
    factor = error.worst if error.likely is None else error.likely
    chance = joint_probability(x, w) + (0.0 if error.likely is None else FAMILY)
    return Tap(value, tap.worst, radius(factor, likely), min(1.0, chance))


def _products(
    x: torch.Tensor, left: torch.Tensor, w: torch.Tensor, least: Least
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """x w^T, and upper bounds of left |w|^T for each run of rows of `left`.

    Shapes: x f64[R, K]; left f32[n R, K]; w f64[N, K]; f64[R, N] and n times f64[R, N].
    """
    floors = least.expand_as(w) if isinstance(least, torch.Tensor) else None
    values, magnitudes = [], []
    step = max(1, _RUN // max(1, w.shape[1]))
    for start in range(0, max(1, w.shape[0]), step):
        rows = slice(start, start + step)
        values.append(x @ w[rows].T)
        size = _size(w[rows], least if floors is None else floors[rows])
        magnitudes.append(left @ size.T)
    upper = _upper(torch.cat(magnitudes, 1), w.shape[1])
    count = left.shape[0] // x.shape[0] if x.shape[0] else 1
    return torch.cat(values, 1), list(upper.reshape(count, x.shape[0], w.shape[0]))


def _upper(sums: torch.Tensor, depth: int) -> torch.Tensor:
    """fp32 sums of `depth` products as float64 upper bounds.

    Each term loses a relative 2^-24, and a quantum where a product is below the range.
    """
    upper = sums.to(torch.float64).mul_(1.0 + _SLACK + depth * 2.0**-23)
    return upper.add_(depth * 2.0**-149)


def _size(values: torch.Tensor, least: Least) -> torch.Tensor:
    """f32 magnitudes, none below `least`."""
    size = values.to(torch.float32).abs_()
    if isinstance(least, torch.Tensor):
        return torch.maximum(size, least.to(size))
    return size.clamp_(min=least) if least else size


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
    radius: torch.Tensor, value: torch.Tensor, reach: torch.Tensor, limit: float
) -> torch.Tensor:
    """Put Inf where a partial sum may overflow, 0 where the value is not finite."""
    if float(reach.sum()) < limit and float(radius.sum()) < torch.inf:
        return radius
    radius = radius.masked_fill_(~(reach < limit) | radius.isnan(), torch.inf)
    return radius.masked_fill_(~value.isfinite(), 0.0)


def _flushed(tap: Tap) -> Tap:
    """The operand, each subnormal of it possibly read as zero."""
    size = tap.value.abs()
    flushed = (size < 2.0**-126) & (size > 0.0)
    if not bool(flushed.any()):
        return tap
    lost = size.masked_fill_(~flushed, 0.0)
    return Tap(
        tap.value,
        plus(tap.worst, lost),
        None if tap.likely is None else plus(tap.likely, lost),
        tap.probability,
    )

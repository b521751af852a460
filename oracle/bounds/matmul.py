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

    The statistical bound holds where the low bits of products and partial sums are as
    good as random; structured sums (stagnation: many equal or tiny terms beside a large
    one) may exceed it, never the worst case.
    """
    if numerics.gemm != "none":
        inner = numerics.but(gemm="none")
        tap = matmul(x, w, inner, blocks=blocks, least_normals=least_normals)
        tap = rounded(tap, numerics.gemm, numerics)
        if bias is None:
            return tap
        wide = "fp64" if numerics.gemm == "fp64" else "fp32"
        return add(tap, Tap(bias.to(torch.float64)), wide, numerics)
    (rows, depth), width = x.value.shape, w.value.shape[0]
    product = x.value @ w.value.T
    if numerics.subnormals == "flush":
        x, w = _flushed(x), _flushed(w)
    x_size, w_size = _size(x.value, least_normals[0]), _size(w.value, least_normals[1])
    left = [x_size, *_radii(x)]
    products = _products(torch.cat(left), w_size, rows)
    value, total = product, products[0]
    if bias is not None:
        bias = bias.to(torch.float64)
        value = product + bias
        total = total + bias.abs()
    error = dot_error(
        numerics, depth, rows * width, blocks=blocks, bias=bias is not None
    )
    reach = {
        "total": lambda: total,
        "partial": lambda: (total + value.abs()).mul_(0.5),
        "value": lambda: product.abs() if bias is None else product.abs() + bias.abs(),
    }[error.of]()
    exact = exact_sums(x, w, reach, numerics, bias)
    # The value's own float64 sum.
    own = (depth + 2) * 2.0**-52
    carried = _carried(products[1:], torch.cat(left), w, rows)

    def radius(factor: float, spread: Radius) -> torch.Tensor:
        result = (reach * (factor + own)).add_(error.underflow)
        if spread is not None:
            result += spread * (1.0 + factor)
        return _settle(result, value, reach * (1.0 + factor), numerics, exact)

    worst = radius(error.worst, carried[0])
    if error.likely == error.worst and carried[1] is carried[0]:
        return Tap(value, worst)
    probability = min(1.0, joint_probability(x, w) + FAMILY)
    return Tap(value, worst, radius(error.likely, carried[1]), probability)


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


def _products(left: torch.Tensor, right: torch.Tensor, rows: int) -> list[torch.Tensor]:
    """Upper bounds f64[rows, N] of left right^T, for each run of `rows` rows of left.

    fp32 loses a relative 2^-24 a term, and products below its range a quantum each.
    """
    depth = left.shape[1]
    product = (left @ right.T).to(torch.float64)
    product.mul_(1.0 + _SLACK + depth * 2.0**-23).add_(depth * 2.0**-149)
    count = left.shape[0] // rows if rows else 3
    return list(product.reshape(count, rows, -1)) if rows else [product] * count


def _carried(
    products: list[torch.Tensor], left: torch.Tensor, w: Tap, rows: int
) -> tuple[Radius, Radius]:
    """What the operands' radii add to the result: worst, and likely."""
    worst = products[0] if products else None
    likely = products[-1] if products else None
    right = _radii(w)
    if not right:
        return worst, likely
    # |x| rw + rx rw: the rows of x and of its radius against the radius of w.
    size = left[:rows]
    reach = size if worst is None else size + left[rows : 2 * rows]
    far = _products(reach, right[0], rows)[0]
    near = far
    if len(right) > 1 or len(products) > 1:
        reach = size if likely is None else size + left[-rows:]
        near = _products(reach, right[-1], rows)[0]
    same = likely is worst and near is far
    worst = far if worst is None else worst + far
    return worst, worst if same else (near if likely is None else likely + near)


def _settle(
    radius: torch.Tensor,
    value: torch.Tensor,
    reach: torch.Tensor,
    numerics: Numerics,
    exact: torch.Tensor | None,
) -> torch.Tensor:
    """Put 0 where the sum is exact or not finite, Inf where it may overflow."""
    if exact is not None:
        radius = radius.masked_fill_(exact, 0.0)
    limit = least_maximum(numerics)
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

"""Taps as values with radii: making them, joining them, carrying radii through."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from oracle.trace import Tap

Radius = torch.Tensor | None

#: Factor that makes a float64 radius an upper bound whatever its own few roundings did.
UP = 1.0 + 2.0**-50
#: Elements that `by_rows` hands on at a time.
_RUN = 2**15


def exactly(value: torch.Tensor) -> Tap:
    """A value without error, which remembers the least normal value of a 16-bit type.

    >>> exactly(torch.tensor([1.5], dtype=torch.float16)).least_normal == 2.0**-14
    True
    """
    narrow = value.is_floating_point() and value.dtype.itemsize <= 2
    least = torch.finfo(value.dtype).smallest_normal if narrow else 0.0
    return Tap(value.to(torch.float64), least_normal=least)


def constant(value: float, like: Tap, type: str = "fp32") -> Tap:
    """A constant of arithmetic in `type`: held in fp32 or wider, in fp64 for that type.

    Exact only if fp32 has it, or the type is fp64.
    """
    tensor = torch.tensor(value, dtype=torch.float64, device=like.value.device)
    off = (tensor - tensor.to(torch.float32).to(torch.float64)).abs()
    return Tap(tensor, off if bool(off) and type != "fp64" else None)


def concatenate(*taps: Tap, axis: int = 0) -> Tap:
    """The taps one after the other along an axis they all have."""
    return _join(taps, lambda tensors: torch.cat(tensors, dim=axis))


def stack(taps: Sequence[Tap], axis: int = 1) -> Tap:
    """The taps side by side along a new axis."""
    return _join(taps, lambda tensors: torch.stack(tensors, dim=axis))


def by_rows(operation: Callable[[slice], Tap], rows: int, width: int) -> Tap:
    """`operation` on runs of rows, joined: what it makes on the way stays in cache."""
    step = max(1, _RUN // max(1, width))
    if step >= rows:
        return operation(slice(0, rows))
    runs = [slice(start, start + step) for start in range(0, rows, step)]
    return concatenate(*(operation(run) for run in runs))


def _join(
    taps: Sequence[Tap], join: Callable[[list[torch.Tensor]], torch.Tensor]
) -> Tap:
    def rule(*radii: Radius) -> Radius:
        filled = [
            torch.zeros_like(tap.value)
            if radius is None
            else radius.expand_as(tap.value)
            for tap, radius in zip(taps, radii, strict=True)
        ]
        return None if all(radius is None for radius in radii) else join(filled)

    return carried(join([tap.value for tap in taps]), taps, rule)


def carried(
    value: torch.Tensor, operands: Sequence[Tap], rule: Callable[..., Radius]
) -> Tap:
    """The tap of `value` whose radii are `rule` of the operands' radii.

    The rule meets the worst radii first; then, unless no operand has a statistical
    bound, the likely ones, an operand without one standing in with its worst.
    Probabilities add up (union bound).
    """
    worst = rule(*(tap.worst for tap in operands))
    if worst is None:
        return Tap(value)
    if all(tap.likely is None for tap in operands):
        return Tap(value, worst)
    likely = rule(*(likely_of(tap) for tap in operands))
    return Tap(value, worst, likely, joint_probability(*operands))


def likely_of(tap: Tap) -> Radius:
    """The tap's statistical radius, or its worst: that one holds all the more."""
    return tap.worst if tap.likely is None else tap.likely


def distance(
    value: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """From `value` to the farther end of low..high.

    0 where an end is the same infinity as the value, or all three are NaN; otherwise
    NaN (an argument that may leave a function's domain) counts as infinitely far.
    """
    far = torch.maximum(high - value, value - low)
    if not far.numel() or float(far.sum()) < torch.inf:
        return far
    above = torch.where(high == value, 0.0, high - value)
    far = torch.maximum(above, torch.where(low == value, 0.0, value - low))
    nothing = value.isnan() & low.isnan() & high.isnan()
    return far.masked_fill_(nothing, 0.0).masked_fill_(far.isnan(), torch.inf)


def joint_probability(*taps: Tap) -> float:
    """Probability that any of the taps' statistical bounds fails."""
    return min(1.0, sum(tap.probability for tap in taps))


def plus(*radii: Radius) -> Radius:
    """Sum of radii, None counting as zero."""
    present = [radius for radius in radii if radius is not None]
    if not present:
        return None
    result = present[0]
    for radius in present[1:]:
        result = result + radius
    return result * UP if len(present) > 1 else result

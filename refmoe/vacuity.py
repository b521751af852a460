"""Bounds that admit zeros: where a pass says nothing about the kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from oracle import bounds
from oracle.numerics import PRESETS, Elementary, Numerics
from oracle.trace import Tap
from refmoe.compare import NAMES
from refmoe.verdict import Kind, Verdict

_FUNCTIONS = ("exp", "sigmoid", "tanh", "erf", "log", "sqrt", "divide")


def admits_zero(tap: Tap, dtype: str, numerics: Numerics) -> torch.Tensor:
    """Where a result of 0 would pass for a value that is not 0: bool, as the tap.

    A result of the wrong sign, or twice the right one, is as far off or farther: no
    such mistake passes where 0 does not.
    """
    tap = bounds.rounded(tap, dtype, numerics)
    size = tap.value.abs()
    if tap.worst is None:
        return torch.zeros_like(size, dtype=torch.bool)
    return (tap.worst >= size) & (size > 0)


def vacuous(declared: Tap, sharp: Tap, dtype: str, numerics: Numerics) -> float:
    """The share of nonzero elements where the declaration is to blame that 0 passes.

    `sharp` is the same tap in the sharpest arithmetic there is: where that admits 0 as
    well, the value is nearly cancelled and no arithmetic would tell. Over a half, zeros
    pass at the median element, and so would any other small result.
    """
    blind = admits_zero(declared, dtype, numerics)
    blind &= ~admits_zero(sharp, dtype, PRESETS["reference"])
    counted = int((declared.value != 0).sum())
    return int(blind.sum()) / counted if counted else 0.0


def suspicious(tap: Tap, dtype: str, numerics: Numerics) -> bool:
    """Whether 0 passes at half of the nonzero elements, whatever the reason."""
    blind = int(admits_zero(tap, dtype, numerics).sum())
    return 2 * blind > int((tap.value != 0).sum())


def known(numerics: Numerics) -> Numerics:
    """The declaration with no elementary function worse than any that is known."""
    changed = {}
    for name in _FUNCTIONS:
        declared: Elementary = getattr(numerics, name)
        others = [getattr(preset, name) for preset in PRESETS.values()]
        limits = {
            part: max(getattr(other, part) for other in others)
            for part in ("relative", "absolute", "slope")
        }
        held = {
            part: min(getattr(declared, part), limit) for part, limit in limits.items()
        }
        changed[name] = Elementary(
            **held, type=declared.type, landmarks=declared.landmarks
        )
    return numerics.but(**changed)


def sharpest(numerics: Numerics) -> Numerics:
    """Float64 throughout, with the same choices and output."""
    return PRESETS["reference"].but(output=numerics.output, ties=numerics.ties)


def weighed(
    verdict: Verdict,
    tap: Tap,
    got: torch.Tensor,
    numerics: Numerics,
    sharp: Callable[[], Tap],
) -> Verdict:
    """The verdict of `got`, but of a pass in a bound that admits zeros.

    It decides nothing in a known arithmetic, and is VACUOUS where functions that are
    worse than any known one are declared. `sharp` is the tap in float64.
    """
    passed = verdict.kind in (Kind.WITHIN, Kind.AMBIGUOUS, Kind.SUSPECT)
    if not passed or not tap.value.is_floating_point():
        return verdict
    dtype = NAMES[got.dtype]
    if not suspicious(tap, dtype, numerics):
        return verdict
    share = vacuous(tap, sharp(), dtype, numerics)
    if share <= 0.5:
        return verdict
    percent = f"{100 * share:.3g} %"
    detail = f"the declared arithmetic admits zeros in {percent} of {verdict.tap}"
    kind = Kind.UNDECIDED if known(numerics) == numerics else Kind.VACUOUS
    return replace(verdict, kind=kind, detail=detail)

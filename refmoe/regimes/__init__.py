"""The regimes by name: ways to draw values that make different mistakes visible.

A new regime is a file of its own that ends in `REGIME` and is entered here.
"""

from __future__ import annotations

from refmoe.protocol import suggestion
from refmoe.regimes import (
    biased,
    cancelling,
    codes,
    exact,
    heavy,
    large,
    limits,
    nonfinite,
    randn,
    rounding,
    saturated,
    subnormal,
    ties,
)
from refmoe.regimes.regime import Regime, Source

__all__ = ["REGIMES", "Regime", "Source", "regime"]

REGIMES: dict[str, Regime] = {
    module.REGIME.name: module.REGIME
    for module in (
        randn, exact, heavy, ties, saturated, biased, limits, large, cancelling,
        subnormal, codes, rounding, nonfinite,
    )
}  # fmt: skip


def regime(name: str) -> Regime:
    """The regime called `name`; raises ValueError with the closest one."""
    if name not in REGIMES:
        raise ValueError(
            f"case: no regime is called {name!r}; {suggestion(name, REGIMES)}"
        )
    return REGIMES[name]

"""The error for an optional package that is not installed."""

from __future__ import annotations

import importlib.util


def require(package: str, extra: str) -> None:
    """Raise ImportError naming the extra of refmoe that brings `package`, if absent."""
    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f"{package} is not installed; pip install 'refmoe[{extra}]' brings it"
        )

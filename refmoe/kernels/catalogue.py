"""Every kernel instance that the launchers ask for in ordinary use, by file.

What is compiled ahead of time (`warm_up`), and what the tests compile for every
architecture. An instance that is not listed compiles when it is first called.
"""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=1)
def instances() -> dict[str, tuple[str, ...]]:
    """File name -> expressions."""
    return {"convert.cu": _convert()}


def _convert() -> tuple[str, ...]:
    names = ("e2m1", "e2m3", "e3m2", "e4m3", "e5m2")
    floats = tuple(f"element::{name}" for name in names)
    formats = (*floats, "element::int8", "element::int4", "element::mxint8")
    roundings = ("kNearestEven", "kHalfAway", "kHalfTowardZero", "kTowardZero")
    rules = ("kFloor", "kCeil", "kEven", "kRceil")
    return (
        *(f"encode_elements<{f}, {r}>" for f in formats for r in roundings),
        *(f"decode_elements<{f}>" for f in formats),
        *(f"scale_bytes<{f}, {r}>" for f in floats for r in rules),
        *(f"{kernel}<{t}>" for kernel in ("round_elements", "widen_elements")
          for t in ("bf16", "fp16")),
    )  # fmt: skip

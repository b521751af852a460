"""Arithmetics that a port may have beside the one that it declares."""

from __future__ import annotations

from oracle.numerics import PRESETS, Numerics

#: Rounding points that each op's results depend on.
_POINTS: dict[str, tuple[str, ...]] = {
    "route": ("router", "weights"),
    "grouped_gemm": (),
    "activate": ("activation", "intermediate"),
    "combine": ("weighted", "combine"),
    "experts": ("gate_up", "activation", "intermediate", "down", "weighted", "combine"),
}
_POINTS["moe"] = (*_POINTS["route"], *_POINTS["experts"], "shared")
_TYPES = ("fp32", "bf16", "fp16")


def others(op: str, declared: Numerics) -> dict[str, Numerics]:
    """Every known arithmetic for `op` but the declared one, by the text to paste.

    The presets, then the declaration with one thing changed: the type of a rounding
    point, the tie rule of top-k, subnormals flushed. Empty for ops whose results are
    bytes or indices: nothing there depends on the arithmetic.

    >>> list(others("activate", PRESETS["ieee"]))[-1]
    "numerics.but(intermediate='fp16')"
    """
    if op not in _POINTS:
        return {}
    found: dict[str, Numerics] = {}

    def add(text: str, numerics: Numerics) -> None:
        if numerics != declared and numerics not in found.values():
            found[text] = numerics

    for name, numerics in PRESETS.items():
        add(f"PRESETS[{name!r}]", numerics)
    if declared.subnormals == "keep":
        add("numerics.but(subnormals='flush')", declared.but(subnormals="flush"))
    if op in ("route", "moe"):
        for rule in ("any", "highest"):
            add(f"numerics.but(ties={rule!r})", declared.but(ties=rule))
    for point in _POINTS[op]:
        for kind in _TYPES:
            add(f"numerics.but({point}={kind!r})", declared.but(**{point: kind}))
    return found

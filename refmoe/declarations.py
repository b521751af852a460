"""What a port may compute beside what it declares: arithmetics, and near formulas."""

from __future__ import annotations

from dataclasses import replace

from oracle.numerics import PRESETS, Numerics
from oracle.spec import BlockFormat, Layer
from oracle.spec.activation import ActivationKind

_GEMM = ("accumulate", "split_k", "partial", "dequantized", "gemm")
_ACTIVATE = (
    "activation", "fused", "intermediate", "exp", "sigmoid", "tanh", "erf", "divide",
)  # fmt: skip
_COMBINE = ("weighted", "combine", "combine_order")
_ROUTE = ("router", "weights", "ties", "exp", "sigmoid", "log", "sqrt", "divide")
_EXPERTS = (*_GEMM, "gate_up", *_ACTIVATE, "down", *_COMBINE)
#: What each op's results depend on. Bytes and indices depend on no arithmetic.
_READ: dict[str, tuple[str, ...]] = {
    "route": _ROUTE,
    "grouped_gemm": _GEMM,
    "activate": _ACTIVATE,
    "combine": _COMBINE,
    "experts": _EXPERTS,
    "omni_route_backward": ("combine",),
    "omni_experts": _EXPERTS,
    "moe": (*_ROUTE, *_EXPERTS, "shared"),
}
#: Rounding points that are tried one by one, the likeliest to be misjudged first.
_POINTS = (
    "intermediate", "gate_up", "activation", "down", "weighted", "combine", "shared",
    "weights", "router",
)  # fmt: skip


def others(op: str, layer: Layer, declared: Numerics) -> dict[str, Numerics]:
    """Every known arithmetic for `op` but the declared one, by the text to paste.

    First the declaration with one thing changed: the type of a rounding point (fp32 or
    the layer's own), the tie rule of top-k, subnormals flushed; then the presets. What
    differs only where `op` does not look is left out, and so are units that multiply
    FP8 or FP4 where the layer's operands are wider.
    """
    read = (*_READ.get(op, ()), "subnormals")
    if op not in _READ:
        return {}
    narrow = isinstance(layer.activations, BlockFormat)
    seen = {_seen(declared, read)}
    found: dict[str, Numerics] = {}

    def add(text: str, numerics: Numerics) -> None:
        if numerics.takes_codes and not narrow:
            return
        key = _seen(numerics, read)
        if key not in seen:
            seen.add(key)
            found[text] = numerics

    # Who declares nothing has no `numerics` to change.
    but = "Numerics" if declared == Numerics() else "numerics.but"
    add(f"{but}(subnormals='flush')", declared.but(subnormals="flush"))
    for rule in ("highest", "any"):
        add(f"{but}(ties={rule!r})", declared.but(ties=rule))
    half = layer.dtype if layer.dtype in ("bf16", "fp16") else "bf16"
    for point in _POINTS:
        for kind in ("fp32", half):
            add(f"{but}({point}={kind!r})", declared.but(**{point: kind}))
    for name, numerics in PRESETS.items():
        add(f"PRESETS[{name!r}]", numerics)
    return found


#: Formulas that differ by no more than a coarse function's error.
_NEAR: dict[str, ActivationKind] = {
    "geglu_tanh": "geglu_erf", "geglu_erf": "geglu_tanh",
}  # fmt: skip


def neighbours(layer: Layer) -> dict[str, Layer]:
    """Layers so close to `layer` that a wide arithmetic could pass for the difference.

    Operands left unquantised are off by less than what some FP8 units cut away.

    >>> from oracle import models
    >>> list(neighbours(models.get("gemma-4-26b-a4b")))
    ['activation.kind=geglu_erf']
    """
    found = {}
    kind = _NEAR.get(layer.activation.kind)
    if kind is not None:
        near = replace(layer, activation=replace(layer.activation, kind=kind))
        found[f"activation.kind={kind}"] = near
    plain = {
        name: layer.dtype
        for name in ("activations", "requantize")
        if isinstance(getattr(layer, name), BlockFormat)
    }
    if plain:
        words = " ".join(f"{name}={dtype}" for name, dtype in plain.items())
        found[words] = replace(layer, **plain)  # type: ignore[arg-type]
    return found


def _seen(numerics: Numerics, read: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(getattr(numerics, name) for name in read)

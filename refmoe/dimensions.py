"""Which of a case's fields go with which op, and which sizes with which format."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from oracle.spec import BlockFormat, Layer
from refmoe.case import SLOTS, Case, block_format
from refmoe.protocol import OPS

_SOME = ("all", "some", "twice")
#: What the slots of each op that takes ids (or rows made of them) may be.
_SLOTS: dict[str, tuple[str, ...]] = {
    "permute": _SOME, "activate": _SOME, "activate+quantize": _SOME, "experts": _SOME,
    "combine": _SOME, "omni_experts": _SOME, "omni_route_backward": ("all", "twice"),
    "grouped_gemm": SLOTS, "grouped_quantize": SLOTS,
}  # fmt: skip
_EXPERTS = ("experts", "moe")
#: The ops that look at a field.
_OPS: dict[str, tuple[str, ...]] = {
    "local": tuple(name for name, op in OPS.items() if "local" in op.keywords),
    "shard": ("grouped_gemm", *_EXPERTS),
    "rows": ("route", *_EXPERTS),
    "logits_dtype": ("route", "moe"),
    "bias_dtype": ("route", *_EXPERTS),
    "constants": ("grouped_gemm", "activate", "activate+quantize", *_EXPERTS),
}
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Case)}


def looks_at(op: str, field: str) -> bool:
    """Whether the field of a case makes any difference to `op`."""
    return op in (_SLOTS if field == "slots" else _OPS[field])


def slots_of(op: str) -> tuple[str, ...]:
    """What the slots of `op` may be, the simplest first."""
    return _SLOTS.get(op, SLOTS[:1])


def check(case: Case) -> None:
    """Raise ValueError naming the first field that means nothing in this case."""
    for field, ops in _OPS.items():
        value = getattr(case, field)
        if value != _DEFAULTS[field] and case.op not in ops:
            raise ValueError(
                f"case: {case.op} knows no {field}={value}; {field} goes with "
                f"{', '.join(ops)}"
            )
    if case.slots not in slots_of(case.op):
        fit = [op for op in _SLOTS if case.slots in _SLOTS[op]]
        raise ValueError(
            f"case: {case.op} knows no slots={case.slots}; that goes with "
            f"{', '.join(fit)}"
        )
    if case.slots == "twice" and case.layer.top_k < 2:
        raise ValueError("case: slots=twice needs two slots of a token; give k >= 2")
    if case.local is not None and case.shard is not None:
        raise ValueError(
            f"case: local={case.local} and shard={case.shard} are two ways to split "
            "a layer; give one"
        )


def check_blocks(case: Case, layer: Layer) -> None:
    """Raise ValueError where a size of `layer`, the case's rank's, cuts a block."""
    for name, size, form, axis in _cut(case, layer):
        if isinstance(form, str) or form.ragged or not form.block[axis]:
            continue
        if size % form.block[axis]:
            raise ValueError(
                f"case: {name}={size} does not divide into blocks of "
                f"{form.block[axis]} ({form.name}); give a multiple of that"
            )


def _cut(case: Case, layer: Layer) -> Iterator[tuple[str, int, str | BlockFormat, int]]:
    """Sizes that the case's op reads in blocks: name, size, format, axis of a block."""
    op, hidden, inner = case.op, layer.hidden, layer.intermediate
    if op in ("quantize", "dequantize"):
        yield "T", case.T, block_format(case), 0
    if op in ("quantize", "dequantize", "grouped_quantize"):
        yield "H", hidden, block_format(case), 1
    if op == "activate+quantize":
        yield "I", inner, block_format(case), 1
    if op in ("grouped_gemm", *_EXPERTS):
        yield "rows of gate_up", layer.gate_up_rows, layer.weights, 0
        yield "H", hidden, layer.weights, 1
    if op in _EXPERTS:
        yield "H", hidden, layer.weights, 0
        yield "I", inner, layer.weights, 1
        yield "H", hidden, layer.activations, 1
        yield "I", inner, layer.requantize, 1
    if op == "moe" and layer.shared is not None:
        form, wide = layer.shared.weights or layer.dtype, layer.shared.intermediate
        gated = (layer.shared.activation or layer.activation).gated
        yield "rows of shared_gate_up", wide * (1 + gated), form, 0
        yield "H", hidden, form, 0
        yield "H", hidden, form, 1
        yield "shared.intermediate", wide, form, 1

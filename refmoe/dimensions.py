"""Which of a case's fields go with which op."""

from __future__ import annotations

import dataclasses

from refmoe.case import SLOTS, Case
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

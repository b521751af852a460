"""Honest layers that round at other points, and one per preset of the numerics."""

from __future__ import annotations

from oracle.numerics import PRESETS, Numerics
from refmoe.gallery.entry import Entry

_DECLARED: dict[str, tuple[str, Numerics]] = {
    "wide_intermediate": (
        "The intermediate stays float32.", Numerics(intermediate="fp32")
    ),
    "half_intermediate": ("The intermediate is fp16.", Numerics(intermediate="fp16")),
    "bf16_dequantized": (
        "Block-scaled weights become bf16.", Numerics(dequantized="bf16")
    ),
    "rounded_gate_up": ("GEMM1 stores bf16.", Numerics(gate_up="bf16")),
    "rounded_before_bias": (
        "Both GEMMs store bf16 before their bias.", Numerics(gemm="bf16")
    ),
    "bf16_activation": (
        "The activation computes in bf16.",
        Numerics(gate_up="bf16", activation="bf16"),
    ),
    "rounded_down": ("GEMM2 stores bf16.", Numerics(down="bf16")),
    "rounded_products": (
        "Weighted rows are stored in bf16.", Numerics(weighted="bf16")
    ),
    "bf16_combine": (
        "The sum over the choices is kept in bf16, slot by slot.",
        Numerics(weighted="bf16", combine="bf16", combine_order="slot"),
    ),
    "bf16_combine_by_expert": (
        "The sum over the choices is kept in bf16, expert by expert.",
        Numerics(combine="bf16", combine_order="expert"),
    ),
    "bf16_weights": ("The router hands on bf16.", Numerics(weights="bf16")),
    "bf16_router": (
        "The router computes in bf16.",
        Numerics(logits="bf16", router="bf16", weights="bf16"),
    ),
    "bf16_shared": ("The shared expert returns bf16.", Numerics(shared="bf16")),
    "wide_output": ("The output is float32.", Numerics(output="fp32")),
}  # fmt: skip

ENTRIES = [
    Entry("honest", name, about, numerics=numerics)
    for name, (about, numerics) in _DECLARED.items()
] + [
    Entry("honest", f"preset_{name}", f"Rounds where {name} does.", numerics=numerics)
    for name, numerics in PRESETS.items()
]

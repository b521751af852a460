"""Arithmetic that differs from what is declared, in the order of how coarse it is."""

from __future__ import annotations

import torch

from oracle.formats import round_to
from oracle.numerics import Elementary
from oracle.trace import Tap
from refmoe.diagnose import changes
from refmoe.diagnose.hypothesis import Alteration, Hypothesis, Place

_GEMM = ("grouped_gemm", "experts", "moe")
_EXPERTS = ("experts", "moe")


def _numerics(
    name: str, about: str, ops: tuple[str, ...] = (), **fields: object
) -> Hypothesis:
    return Hypothesis(name, about, changes.numerics(**fields), ops=ops)


def _stored(rounding: str, through: str = "none") -> Alteration:
    """The result rounded to the layer's type in another way."""

    def altered(place: Place, tap: Tap) -> Tap:
        worst = torch.zeros_like(tap.value) if tap.worst is None else tap.worst

        def rounded(value: torch.Tensor) -> torch.Tensor:
            value = value if through == "none" else round_to(value, through)
            return round_to(value, place.layer.dtype, rounding=rounding)  # type: ignore[arg-type]

        centre = rounded(tap.value)
        ends = (rounded(tap.value - worst), rounded(tap.value + worst))
        reach = torch.maximum((ends[0] - centre).abs(), (ends[1] - centre).abs())
        return Tap(centre, reach.nan_to_num(0.0))

    return altered


def _result(name: str, about: str, change: Alteration) -> Hypothesis:
    return Hypothesis(
        name, about, changes.numerics(output="fp64"), {"gate_up": change},
        ("grouped_gemm",),
    )  # fmt: skip


def _in_bf16(place: Place, tap: Tap) -> Tap:
    return tap.map(lambda t: round_to(t, "bf16"))


HYPOTHESES = (
    _result(
        "output_truncated", "the result is cut, not rounded", _stored("toward_zero")
    ),
    _result(
        "output_half_away", "the result is rounded half away from zero",
        _stored("half_away"),
    ),
    _result(
        "output_rounded_twice", "the result is rounded by way of fp32",
        _stored("nearest_even", "fp32"),
    ),
    _numerics("flushed", "subnormals are flushed to zero", subnormals="flush"),
    Hypothesis(
        "dequantised_to_bf16", "codes times scales are rounded to bf16",
        changes.numerics(dequantized="bf16"), {"values": _in_bf16},
        ("dequantize", *_GEMM),
    ),
    _numerics("weights_in_bf16", "weights are handed on in bf16", ("route", "moe"),
              weights="bf16"),
    _numerics("intermediate_in_fp16", "the intermediate passes through fp16",
              ("activate", *_EXPERTS), intermediate="fp16"),
    _numerics("intermediate_in_bf16", "the intermediate passes through bf16",
              ("activate", *_EXPERTS), intermediate="bf16"),
    _numerics("down_in_fp16", "both GEMMs' results are stored as fp16", _EXPERTS,
              gate_up="fp16", down="fp16"),
    _numerics("gate_up_in_bf16", "GEMM1's result is stored as bf16", _EXPERTS,
              gate_up="bf16"),
    _numerics("down_in_bf16", "GEMM2's result is stored as bf16", _EXPERTS,
              down="bf16"),
    _numerics("combine_in_bf16", "the sum over the choices is kept in bf16",
              ("combine", *_EXPERTS), combine="bf16"),
    _numerics("coarse_exponential", "the exponential has ten right bits",
              ("activate", *_EXPERTS), exp=Elementary(2.0**-10, landmarks=False),
              sigmoid=Elementary(2.0**-10, landmarks=False)),
    _numerics("activation_in_bf16", "the activation computes in bf16",
              ("activate", *_EXPERTS), activation="bf16"),
    _numerics("router_in_bf16", "the router computes in bf16", ("route", "moe"),
              router="bf16"),
    _numerics("sums_in_fp16", "the accumulator is fp16", _GEMM, accumulate="fp16"),
    _numerics("fourteen_bits", "the accumulator has fourteen bits", _GEMM,
              accumulate="qgmma_hopper"),
    _numerics("partial_sums_in_bf16", "partial sums are kept in bf16", _GEMM,
              partial="bf16", split_k=64),
    _numerics("sums_in_bf16", "the accumulator is bf16", _GEMM, accumulate="bf16"),
)  # fmt: skip

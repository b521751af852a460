"""Identify finds what every honest port declares, and says what it could not see."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from refmoe.gallery import entries
from refmoe.identify import Identified, identify
from refmoe.loading import port_of
from refmoe.report.identified import text

HONEST = entries("honest")
#: Fields of Numerics that the ops of the plain port show.
SHOWN = (
    "accumulate", "partial", "split_k", "dequantized", "logits", "router", "weights",
    "gemm", "gate_up", "activation", "intermediate", "down", "weighted", "combine",
    "combine_order", "shared", "output", "subnormals", "ties", "exp", "sigmoid",
)  # fmt: skip
#: Declarations that admit more than the port does, on purpose.
WIDER = {
    "split_k": {"split_k"},
    "preset_cuda_fast": {"subnormals"},
    "preset_deepseek_v4": {"accumulate"},
}
#: What another stage hides: a 16-bit GEMM2 the shared expert's own rounding, a 16-bit
#: activation the intermediate's, 16-bit weights the functions behind them.
_SHARED, _INTERMEDIATE = {"shared"}, {"intermediate"}
_FUNCTIONS = {"exp", "sigmoid"}
HIDDEN = {
    # Kahan's sum rounds like no unit; no tree gives partial sums a place.
    "compensated": {"accumulate", "partial", "split_k"},
    # An order of its own in every call.
    "shuffled": {"partial", "split_k"},
    # Every partial sum is rounded like the whole.
    "split_k_in_bf16": {"gemm", "shared"},
    # Its weight multiplies what goes into GEMM2.
    "weight_on_intermediate": {"weighted"},
    # Its only layers quantise the intermediate, and its sums keep 14 bits.
    "hopper_fp8": {
        "dequantized", "gate_up", "activation", "intermediate", "shared",
    },
    "rounded_before_bias": _SHARED,
    "rounded_down": _SHARED,
    "bf16_activation": _INTERMEDIATE,
    "bf16_weights": _FUNCTIONS,
    "bf16_router": {"weights", *_FUNCTIONS},
    "preset_hf_bf16": {*_INTERMEDIATE, *_SHARED},
    "preset_hf_gpt_oss_bf16": {*_INTERMEDIATE, *_SHARED, *_FUNCTIONS},
    "preset_vllm_triton": _INTERMEDIATE,
    "preset_vllm_triton_top4": _INTERMEDIATE,
    "preset_flashinfer_cutlass": _SHARED,
    "preset_deepseek_v4": _SHARED,
}  # fmt: skip


@cache
def found_of(name: str) -> Identified:
    torch.set_num_threads(1)
    return identify(port_of(HONEST[name].port(), name))


def equal(field: str, value: Any, declared: Any) -> bool:
    """Whether two values of a rounding point mean the same in fp32 arithmetic."""
    same = {"none": "fp32"} if field not in ("gemm", "logits") else {"fp32": "none"}
    return bool(same.get(value, value) == same.get(declared, declared))


@pytest.mark.parametrize("name", HONEST)
def test_identify_finds_what_an_honest_port_declares(name: str) -> None:
    found, declared = found_of(name), port_of(HONEST[name].port()).numerics
    assert not found.contradictions, "\n".join(text(found))
    wider = {item.field for item in found.evidence if item.status == "wider"}
    assert wider == WIDER.get(name, set())
    hidden = HIDDEN.get(name, set())
    for field in SHOWN:
        item = found.of(field)
        if field in hidden:
            assert item is None, f"{field} shows after all: {item}"
            continue
        assert item is not None, (
            f"{field}: {[o for o in found.open if o.field == field]}"
        )
        if item.status != "wider":
            value, want = item.value, getattr(declared, field)
            if declared.accumulate == "fp64" and field == "dequantized":
                want = "fp64"
            assert equal(field, value, want), f"{field}: {item}"


@pytest.mark.parametrize("name", HONEST)
def test_identify_numerics_to_paste_change_nothing_that_is_right(name: str) -> None:
    found, declared = found_of(name), port_of(HONEST[name].port()).numerics
    changes = {
        item.field: item.value for item in found.evidence if item.status == "wider"
    }
    assert found.numerics == declared.but(**changes)


@pytest.mark.parametrize(
    "name, value",
    [
        ("volta", ("hmma_volta",)),
        ("ampere", ("hmma_ampere",)),
        # The same arithmetic under two names.
        ("hopper", ("hmma_hopper", "tcgen05_bf16")),
        ("any_tensor_core", ("hmma_hopper", "tcgen05_bf16")),
        ("hopper_fp8", ("qgmma_hopper_promoted",)),
        ("sequential", ("ffma",)),
        ("shuffled", ("ffma",)),
        ("preset_reference", ("fp64",)),
    ],
)
def test_identify_matrix_unit_is_found(name: str, value: tuple[str, ...]) -> None:
    item = found_of(name).of("accumulate")
    assert item is not None
    assert item.found == value


@pytest.mark.parametrize(
    "name, value",
    [
        ("sequential", "one after the other"),
        ("reversed_order", "one after the other, from the last"),
        ("pairwise", "a balanced tree"),
        ("volta", "fused steps of up to 5 terms, the sum so far among them"),
        ("hopper_fp8", "fused steps of up to 33 terms, the sum so far among them"),
    ],
)
def test_identify_order_of_sums_is_revealed(name: str, value: str) -> None:
    item = found_of(name).of("order of sums")
    assert item is not None
    assert item.value == value


@pytest.mark.parametrize(
    "name, field, value",
    [
        ("atomics", "deterministic", False),
        ("shuffled", "deterministic", False),
        ("sequential", "deterministic", True),
        ("sequential", "batch_invariant", True),
        ("fused", "fma", True),
        ("sequential", "fma", False),
        ("pairwise", "fma", False),
        ("unstable", "stable", False),
        ("sequential", "stable", True),
        ("sequential", "nan", "stays"),
        ("scales_rounded_up", "activations.scale_rule", "ceil"),
        ("scales_rounded_up", "requantize.scale_rule", "ceil"),
        ("sequential", "activations.scale_rule", "floor"),
        ("weight_on_intermediate", "weight_on", "intermediate"),
        ("sequential", "mxfp4:even scale_rule", "even"),
        ("sequential", "nvfp4:torchao recipe", "torchao"),
        ("sequential", "int8_token rounding", "nearest_even"),
        ("sequential", "mxfp4 nonfinite", "error"),
        ("sequential", "renormalize", "sum_plus_epsilon"),
        ("sequential", "epsilon", 1e-20),
    ],
)
def test_identify_policies_are_found(name: str, field: str, value: Any) -> None:
    item = found_of(name).of(field)
    assert item is not None
    assert item.value == value

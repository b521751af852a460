"""What identify finds of released code is what its ports say of it."""

from __future__ import annotations

import pytest
import torch

from refmoe.identify import Identified, identify
from refmoe.loading import load


def refuted(found: Identified) -> set[str]:
    return {item.field for item in found.contradictions}


def values(found: Identified) -> dict[str, object]:
    return {item.field: item.value for item in found.evidence}


def test_identify_torchao_follows_the_rule_it_is_asked_for() -> None:
    found = identify(load("refmoe.peers.torchao"), families=("quantisers",))
    assert not refuted(found)
    seen = values(found)
    for rule in ("ceil", "even", "rceil"):
        assert seen[f"mxfp4:{rule} scale_rule"] == rule
    assert seen["mxfp4 scale_rule"] == "floor"
    assert seen["mxfp4 rounding"] == "nearest_even"
    assert seen["mxfp4 keep_negative_zero"] is True
    assert seen["nvfp4:torchao recipe"] == "torchao"
    # A NaN makes its block NaN, whatever the format leaves open.
    assert seen["mxfp4 nonfinite"] == "propagate"
    # Blocks whose scale byte would be 0: the format has no such bytes.
    reasons = {item.field: item.reason for item in found.open}
    assert "no arithmetic" in reasons["mxfp4 amax_floor"]


def test_identify_torch_grouped_gemm_adds_in_fp32() -> None:
    torch.set_num_threads(1)
    found = identify(load("refmoe.peers.torch"))
    assert not refuted(found)
    assert values(found)["accumulate"] in ("fp32", "ffma")


@pytest.mark.parametrize(
    "name, wanted",
    [
        (
            "mixtral",
            {
                "combine_order": "expert", "down": "bf16", "weighted": "bf16",
                "combine": "bf16", "gate_up": "bf16", "activation": "bf16",
                "logits": "bf16", "router": "fp32", "weights": "fp32",
                "renormalize": "sum",
            },
        ),
        (
            "mixtral_grouped_mm",
            {"combine_order": "any", "weighted": "fp32", "combine": "fp32"},
        ),
        (
            "deepseek_v3",
            {
                "combine": "bf16", "logits": "none", "router": "fp32",
                "renormalize": "sum_plus_epsilon", "epsilon": 1e-20,
            },
        ),
        (
            "gpt_oss",
            {
                "gemm": "bf16", "gate_up": "bf16", "down": "bf16",
                "activation": "bf16", "router": "bf16",
            },
        ),
    ],
)  # fmt: skip
def test_identify_transformers_rounds_where_it_says(
    name: str, wanted: dict[str, object]
) -> None:
    torch.set_num_threads(1)
    found = identify(
        load(f"refmoe.peers.transformers:{name}"), families=("arithmetic", "routing")
    )
    assert not refuted(found)
    seen = values(found)
    assert {key: seen.get(key) for key in wanted} == wanted

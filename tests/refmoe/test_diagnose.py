"""Mistakes of a first port, each made here by hand, and the cause that is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from oracle.blocks import quantize
from refmoe.diagnose import HYPOTHESES, Evidence, explain
from refmoe.gallery import entries
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.problem import build
from refmoe.runner import run

PLAIN = entries("honest")["sequential"].port()
GPT = "experts model=gpt-oss-120b T=5 H=32 I=32 E=4 k=2 regime=randn"
MIXTRAL = "experts model=mixtral-8x7b T=9 H=32 I=32 E=6 k=2 regime=randn"


def _weighted_twice(x: Any, ids: Any, weights: Any, params: Any, layer: Any) -> Any:
    return PLAIN.experts(x, ids, weights * weights, params, layer)


def _bias_behind(x: Any, ids: Any, weights: Any, params: Any, layer: Any) -> Any:
    bare = replace(params, down_bias=torch.zeros_like(params.down_bias))
    wide = replace(layer, dtype="fp32")
    out = PLAIN.experts(x, ids, weights, bare, wide).float()
    return (out + params.down_bias.float()[ids].sum(1)).to(x.dtype)


def _end_off_by_one(
    x: Any, ids: Any, weights: Any, params: Any, layer: Any, local: Any = None
) -> Any:
    if local is not None:
        ids = torch.where(ids == local[1] - 1, -1, ids)
    return PLAIN.experts(x, ids, weights, params, layer, local=local)


def _activated(clamped: Callable[..., Any]) -> Callable[..., Any]:
    """GPT-OSS's activation in fp64, gate and up clamped as the mistake has it."""

    def activate(gate_up: Any, params: Any, layer: Any, expert: Any) -> Any:
        def of(name: str) -> Any:
            own = getattr(params, name)
            if own is None:
                return torch.tensor(getattr(layer.activation, name))
            return own[expert].double()[:, None]

        limit, beta = of("limit"), of("beta")
        limit = torch.where(limit > 0, limit, torch.inf)
        gate, up = clamped(*gate_up.double().chunk(2, -1), limit, beta)
        return (gate * torch.sigmoid(of("alpha") * gate) * up).bfloat16()

    return activate


def _route_by_bf16(logits: Any, params: Any, layer: Any) -> Any:
    scores = torch.softmax(logits.double(), 1).float()
    order = scores.bfloat16().argsort(dim=1, descending=True, stable=True)
    ids = order[:, : layer.top_k]
    weights = scores.gather(1, ids)
    return ids, weights / weights.sum(1, keepdim=True)


def _quantized(scaled: float, zero: int | None = None) -> Callable[..., Any]:
    """Scales of x times a factor; blocks of zeros get the byte `zero`."""

    def quantize_(x: Any, format: Any) -> Any:
        own, seen = quantize(x, format), quantize(x.double() * scaled, format)
        assert zero is not None or not torch.equal(own.scales, seen.scales)
        step = seen.scales.double() - own.scales.double()
        wide = x.double() * torch.exp2(-step).repeat_interleave(32, -1)
        codes = quantize(wide, replace(format, scale_rule="floor")).codes
        scales = seen.scales
        if zero is not None:
            empty = (x.reshape(*scales.shape, 32) == 0).all(-1)
            scales, codes = scales.masked_fill(empty, zero), own.codes
        return codes, scales

    return quantize_


ROUNDING = "quantize T=33 H=96 format=mxfp8_e4m3 regime=rounding"
MADE: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "weighted_twice": (_weighted_twice, (f"{MIXTRAL} seed=0", f"{MIXTRAL} seed=1")),
    "down_bias_unweighted": (_bias_behind, (f"{GPT} seed=0", f"{GPT} seed=1")),
    "last_expert_of_a_rank_dropped": (
        _end_off_by_one, (f"{MIXTRAL} local=1/2 seed=0", f"{MIXTRAL} seed=0"),
    ),
    "clamps_exchanged": (
        _activated(lambda gate, up, limit, beta: (
            gate.clamp(-limit, limit), up.clamp(max=limit) + beta
        )),
        ("activate model=gpt-oss-120b T=9 I=64 E=8 k=2 regime=limits constants=own",
         "activate model=gpt-oss-120b T=9 I=64 E=8 k=2 regime=limits"),
    ),
    "up_not_clamped": (
        _activated(lambda gate, up, limit, beta: (gate.clamp(max=limit), up + beta)),
        ("activate model=gpt-oss-120b T=9 I=64 E=8 k=2 regime=limits constants=own",),
    ),
    "beta_before_the_clamp": (
        _activated(lambda gate, up, limit, beta: (
            gate.clamp(max=limit), (up + beta).clamp(-limit, limit)
        )),
        ("activate model=gpt-oss-120b T=9 I=64 E=8 k=2 regime=limits constants=own",
         "activate model=gpt-oss-120b T=9 I=64 E=8 k=2 regime=limits"),
    ),
    "keys_in_bf16": (
        _route_by_bf16, ("route model=mixtral-8x7b T=40 E=16 k=2 regime=ties seed=1",),
    ),
    "zero_block_is_one": (_quantized(1.0, zero=127), (ROUNDING,)),
}  # fmt: skip


#: What else might be said of them.
RIVALS = (
    "weight_on_input", "unweighted", "down_bias_twice", "bias_missing", "no_clamp",
    "last_expert_dropped", "expert_0_dropped", "gate_clamped_from_below",
    "up_clamped_from_above_only", "router_in_bf16", "highest_of_equals",
    "scale_step_high", "zero_block_is_nan",
)  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_diagnose_names_the_mistake_of_a_first_port(name: str) -> None:
    """Catches what a stranger's first port got wrong, called unexplained."""
    function, lines = MADE[name]
    op = lines[0].split()[0]
    port = port_of({op: function, "device": "cpu"}, "mine")
    evidence = []
    for line in lines:
        problem = build(parse(line))
        right = name.startswith("last_expert") and "local" not in problem.inputs
        evidence.append(Evidence(problem, run(port, problem), right))
    tried = [one for one in HYPOTHESES if one.name in (*MADE, *RIVALS)]
    causes = explain(evidence, tried)
    assert causes, name
    assert causes[0].name == name

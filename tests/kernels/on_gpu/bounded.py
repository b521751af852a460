"""What must stay within the oracle's bounds: routers, activations, small experts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import get_args

import torch
from on_gpu.place import DTYPES, Place
from on_gpu.report import Check, equal, inside

from oracle import activation as activations
from oracle import bounds, omni
from oracle import routing as routers
from oracle.numerics import Numerics
from oracle.params import Params
from oracle.spec import Activation, Layer, Routing
from oracle.spec.activation import ActivationKind
from refmoe.kernels.launchers.activate import activate, activate_quantize
from refmoe.kernels.launchers.omni import omni_experts, omni_route_backward
from refmoe.kernels.launchers.quantize import quantize
from refmoe.kernels.launchers.route import route_tokens

NUMERICS = Numerics(combine_order="slot")
ROUTINGS = {
    "softmax": (8, 2, Routing()),
    "gpt_oss": (128, 4, Routing(order="topk_then_score", bias="logits")),
    "qwen": (128, 8, Routing(renormalize="sum")),
    "llama4": (16, 1, Routing("sigmoid", "topk_then_score")),
    "deepseek_v2": (
        160, 6, Routing(groups=8, top_groups=3, masked_fill="zero", scale=16.0)),
    "deepseek_v3": (
        256, 8, Routing("sigmoid", bias="selection", groups=8, top_groups=4,
                        group_score="top2", renormalize="sum_plus_epsilon",
                        epsilon=1e-20, scale=2.5)),
    "deepseek_v4": (
        256, 6, Routing("sqrtsoftplus", bias="selection", renormalize="sum",
                        scale=1.5)),
    "deepseek_v4_hash": (
        256, 6, Routing("sqrtsoftplus", method="hash", renormalize="sum", scale=1.5)),
    "phi": (16, 2, Routing(method="sparsemixer")),
    "ernie": (
        64, 6, Routing(bias="selection", renormalize="max_sum_epsilon", epsilon=1e-12)),
    "longcat": (60, 12, Routing(bias="selection", scale=6.0, zero_experts=30)),
    "inkling": (48, 4, Routing("sigmoid", renormalize="sum", shared_logits=2)),
    "grok": (8, 2, Routing(softcap=30.0, logits_scale=0.5, renormalize="sum")),
    "gemma": (128, 8, Routing(renormalize="sum", per_expert_scale=True)),
    "odd_groups": (63, 5, Routing("sigmoid", groups=9, top_groups=2)),
    "many": (1000, 32, Routing(renormalize="sum")),
    "past_a_warp": (1100, 3, Routing()),
    "many_choices": (100, 40, Routing("sigmoid")),
}  # fmt: skip


def own_params(layer: Layer, place: Place) -> Params:
    generator = torch.Generator().manual_seed(1)
    choices = layer.routed_choices
    table = torch.randint(0, choices, (11, layer.top_k), generator=generator)
    empty = torch.zeros(0, device=place.device)
    return Params(
        empty, empty,
        router_bias=torch.randn(choices, generator=generator).to(place.device),
        per_expert_scale=torch.rand(choices, generator=generator).to(place.device),
        hash_table=table.to(place.device),
    )  # fmt: skip


def routing(place: Place) -> Iterator[Check]:
    """Selections that the oracle admits, weights within bounds, both kernels."""
    tokens = 1025 if place.large else 13

    def logits(columns: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(columns)
        x = torch.randn(tokens, columns, generator=generator)
        x[1::6] = x[1::6].mul(2).round().div(2)
        x[2::6] *= 30
        x[3::6] *= 1e-6
        x[5::6] -= 20
        x[4, 0], x[4 + 6 * (tokens > 11), columns - 1] = math.nan, math.inf
        return x

    def run(name: str, dtype: torch.dtype, naive: bool) -> None:
        experts, top_k, rule = ROUTINGS[name]
        layer = Layer(8, 8, experts, top_k, routing=rule)
        own = own_params(layer, place)
        x = logits(layer.logits_columns).to(place.device, dtype)
        hashed = rule.method == "hash"
        token_ids = torch.arange(tokens, device=place.device) % 11 if hashed else None
        got = route_tokens(x, own, layer, token_ids=token_ids, naive=naive)
        want = routers.route(x, layer, own, NUMERICS, token_ids=token_ids)
        admitted = want.admissible.contains(got.ids.long())
        assert bool(admitted.all()), (
            f"inadmissible at {admitted.logical_not().nonzero()[:4]}"
        )
        weights, shared = want.weigh(got.ids.long())
        inside(got.weights, weights, "weights")
        if shared is not None:
            inside(got.shared_weights, shared, "shared weights")

    for name in ROUTINGS:
        for naive in (False, True):
            tail = " naive" if naive else ""
            yield f"{name}{tail}", lambda a=name, b=naive: run(a, torch.float32, b)
    for dtype in ("bf16", "fp16"):
        yield f"gpt_oss {dtype}", lambda d=dtype: run("gpt_oss", DTYPES[d], False)


def activating(place: Place) -> Iterator[Check]:
    """Every activation, type and clamp; fused with quantise; per-expert constants."""
    rows, width = (257, 2880) if place.large else (6, 96)

    def gate_up(columns: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(rows, columns, generator=generator) * 8
        x[0] = torch.linspace(-30, 30, columns)
        x[1, ::2] = torch.logspace(-40, 2, columns)[::2]
        x[2, :3] = torch.tensor([math.nan, math.inf, -math.inf])
        return x.to(place.device)

    def model(activation: Activation) -> Layer:
        return Layer(16, 16, 4, 2, activation=activation)

    def run(kind: ActivationKind, clamp: str, name: str) -> None:
        limit = 1.0 if clamp == "after" else None
        rule = Activation(kind, 1.702, 1.0, limit, clamp)  # type: ignore[arg-type]
        x = gate_up(2 * width).to(DTYPES[name])
        empty = Params(x[:0], x[:0])
        got = activate(x, empty, model(rule), None)
        tap = activations.activate(bounds.exactly(x.double()), rule, NUMERICS)
        inside(got, bounds.rounded(tap, name, NUMERICS))
        equal(got, activate(x, empty, model(rule), None, naive=True), "naive")

    def constants(index: torch.dtype) -> None:
        x = gate_up(2 * width).bfloat16()
        own = {
            "alpha": torch.tensor([1.0, 1.702, 0.5], device=place.device),
            "beta": torch.tensor([0.0, 1.0, -1.0], device=place.device),
            "limit": torch.tensor([0.0, 7.0, 1.0], device=place.device),
        }
        expert = torch.arange(rows, device=place.device).remainder(3).to(index)
        got = activate(x, Params(x[:0], x[:0], **own), model(Activation()), expert)
        spread = {name: tensor[expert.long()] for name, tensor in own.items()}
        tap = activations.activate(
            bounds.exactly(x.double()), Activation(), NUMERICS, **spread
        )
        inside(got, bounds.rounded(tap, "bf16", NUMERICS))

    def fused(form: str, name: str) -> None:
        columns = 2048 if place.large else 256
        x = gate_up(2 * columns).to(DTYPES[name])
        x[2, :3] = 0.0
        empty, weights = Params(x[:0], x[:0]), torch.rand(rows, device=place.device)
        rule = model(Activation(limit=7.0))
        got = activate_quantize(x, empty, rule, None, form, weights=weights)
        bf16 = torch.bfloat16
        apart = activate(x, empty, rule, None, weights=weights, dtype=bf16)
        want = quantize(apart, form)
        equal(got.codes, want.codes, "codes")
        equal(got.scales, want.scales, "scales")

    for kind in get_args(ActivationKind):
        for clamp in ("before", "after"):
            for name in DTYPES if place.large else ("bf16",):
                yield (
                    f"{kind} {clamp} {name}",
                    lambda a=kind, b=clamp, c=name: run(a, b, c),
                )
    for index in (torch.int32, torch.int64):
        yield f"constants per expert {index}", lambda i=index: constants(i)
    for form in ("mxfp8_e4m3:rceil", "fp8_group_128", "mxfp4"):
        for name in ("bf16", "fp32"):
            yield f"fused with {form} {name}", lambda a=form, b=name: fused(a, b)


def one_neuron(place: Place) -> Iterator[Check]:
    """The omni layer's experts, and the backward of its router."""
    tokens, width = (65, 1024) if place.large else (3, 40)

    def forwards(name: str, columns: int, naive: bool) -> None:
        dtype = DTYPES[name]
        x = place.randn(tokens, columns, seed=1).div(64).to(dtype)
        up, down = (place.randn(625, columns, seed=s).div(64).to(dtype) for s in (2, 3))
        ids = place.ids(tokens, 16, 625)
        weights = place.randn(tokens, 16, seed=4)
        got = omni_experts(x, ids, weights, up, down, naive=naive)
        numerics = NUMERICS.but(intermediate=name)
        inside(got, omni.omni_experts(x, ids, weights, up, down, numerics))

    def backwards(name: str, n: int, k: int) -> None:
        d_scores = place.randn(tokens, k, seed=6).to(DTYPES[name])
        generator = torch.Generator().manual_seed(n)
        ids = torch.randint(0, n * n, (tokens, k), generator=generator).to(place.device)
        got = omni_route_backward(d_scores, ids, n)
        want = omni.omni_route_backward(d_scores, ids, n, NUMERICS)
        for value, tap in zip(got, want, strict=True):
            inside(value, tap)
        again = omni_route_backward(d_scores, ids, n)
        equal(again[0], got[0], "again")

    for name in DTYPES:
        for columns in (width, 33):
            for naive in (False, True):
                yield (
                    f"experts {name} {columns}{' naive' if naive else ''}",
                    lambda a=name, b=columns, c=naive: forwards(a, b, c),
                )
        for n, k in ((7, 40), (256, 32)):
            yield (
                f"backward {name} n={n} k={k}",
                lambda a=name, b=n, c=k: backwards(a, b, c),
            )

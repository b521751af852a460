"""From a case to a verdict: honest ports pass, mistakes are WRONG at their stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from oracle.numerics import Numerics
from oracle.params import Blocks, Params
from oracle.spec import Layer
from refmoe.declarations import others
from refmoe.judge import Judgement, judge
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.problem import build
from refmoe.report.text import lines
from refmoe.runner import run
from refmoe.verdict import Kind
from refmoe.verify import Record, Verifier

Honest = Any
REGIMES = ("randn", "exact", "heavy")
#: Layers like Mixtral, gpt-oss, DeepSeek-V3 and DeepSeek-V4.
LAYERS = {
    "softmax": "T=17 H=64 I=32 E=8 k=2 routing.renormalize=sum",
    "clamped": "T=9 H=96 I=64 E=9 k=4 weights=mxfp4 expert_bias=true "
    "routing.order=topk_then_score routing.bias=logits activation.alpha=1.702 "
    "activation.beta=1 activation.limit=7",
    "grouped": "T=9 H=64 I=32 E=16 k=8 routing.score=sigmoid routing.bias=selection "
    "routing.groups=4 routing.top_groups=2 routing.group_score=top2 "
    "routing.renormalize=sum_plus_epsilon routing.epsilon=1e-20 routing.scale=2.5 "
    "shared.intermediate=64",
    "quantised": "T=5 H=128 I=96 E=7 k=3 weights=mxfp4 activations=mxfp8_e4m3 "
    "requantize=mxfp8_e4m3 routing.score=sqrtsoftplus routing.renormalize=sum "
    "routing.scale=1.5 weight_on=intermediate activation.limit=10",
}
OPS = {
    "experts": "T=9 H=64 I=32 E=8 k=4 weights=nvfp4 load=half",
    "route": "T=33 E=8 k=2",
    "activate": "T=9 I=64 E=8 k=2",
    "combine": "T=9 H=64 E=8 k=4 load=hot",
    "grouped_gemm": "T=9 H=96 I=64 E=6 k=3",
    "permute": "T=17 E=8 k=2 load=high",
    "omni_route": "T=9 E=16 k=5",
    "omni_route_backward": "T=9 E=16 k=5",
    "omni_experts": "T=9 H=96 E=16 k=5",
}
LINES = [f"moe {words}" for words in LAYERS.values()] + [
    f"{op} {words}" for op, words in OPS.items()
]


def check(port: Any, line: str) -> Record:
    verifier = Verifier()
    return verifier.settled(verifier.check(port_of(port), parse(line)))


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("line", LINES, ids=[*LAYERS, *OPS])
def test_pipeline_honest_port_passes(
    honest: Callable[[], Honest], line: str, regime: str
) -> None:
    record = check(honest(), f"{line} regime={regime} seed=1")
    assert record.kind in (Kind.BIT_EQUAL, Kind.WITHIN), record.judgement
    assert record.judgement.first is None


@pytest.mark.parametrize("line", LINES, ids=[*LAYERS, *OPS])
def test_pipeline_honest_port_passes_without_tokens(
    honest: Callable[[], Honest], line: str
) -> None:
    words = [word for word in line.split() if not word.startswith("T=")]
    record = check(honest(), f"{' '.join(words)} T=0")
    assert record.kind is Kind.BIT_EQUAL


def test_pipeline_exact_regime_is_bit_equal_in_every_order_of_sums(
    honest: type[Honest],
) -> None:
    """Catches an exact regime that an honest kernel could fail."""

    class Backwards(honest):  # type: ignore[misc, valid-type]
        def gemm(
            self, x: torch.Tensor, weights: Any, offsets: torch.Tensor
        ) -> torch.Tensor:
            y = torch.zeros(len(x), weights.shape[1])
            edges = offsets.tolist()
            for e, (start, stop) in enumerate(pairwise(edges)):
                w = self.weight(weights, e)
                for k in reversed(range(x.shape[1])):
                    y[start:stop] += x[start:stop, k, None] * w[None, :, k]
            return y

    for line in (LINES[0], "experts T=9 H=64 I=32 E=8 k=4 weights=mxfp4"):
        record = check(Backwards(), f"{line} regime=exact seed=3")
        assert record.kind is Kind.BIT_EQUAL


# ---- mistakes: how the honest port is changed, where it shows, and the first stage


def no_clamp(port: Honest) -> None:
    def activation(gate_up: torch.Tensor, layer: Layer) -> torch.Tensor:
        off = replace(layer.activation, limit=None)
        return type(port).activation(port, gate_up, replace(layer, activation=off))

    port.activation = activation


def swapped_halves(port: Honest) -> None:
    def activation(gate_up: torch.Tensor, layer: Layer) -> torch.Tensor:
        return type(port).activation(
            port, gate_up.roll(gate_up.shape[1] // 2, 1), layer
        )

    port.activation = activation


def no_renormalisation(port: Honest) -> None:
    def weigh(
        logits: Any, scores: Any, ids: Any, params: Params, layer: Layer
    ) -> torch.Tensor:
        routing = replace(layer.routing, renormalize="none")
        layer = replace(layer, routing=routing)
        return type(port).weigh(port, logits, scores, ids, params, layer)

    port.weigh = weigh


def biased_weights(port: Honest) -> None:
    def weigh(
        logits: Any, scores: Any, ids: Any, params: Params, layer: Layer
    ) -> torch.Tensor:
        scores = scores + params.router_bias
        return type(port).weigh(port, logits, scores, ids, params, layer)

    port.weigh = weigh


def one_scale_off_by_one(port: Honest) -> None:
    def weight(weight: Any, expert: int) -> torch.Tensor:
        if isinstance(weight, Blocks) and expert == 0:
            scales = weight.scales.clone()
            scales[0, 0, 0] += 1
            weight = replace(weight, scales=scales)
        return type(port).weight(port, weight, expert)

    port.weight = weight


def late_bias(port: Honest) -> None:
    """The bias of GEMM2 of the expert's neighbour."""
    routed = type(port).routed

    def shifted(x: Any, ids: Any, weights: Any, params: Params, *rest: Any) -> Any:
        assert params.down_bias is not None
        moved = replace(params, down_bias=params.down_bias.roll(1, 0))
        return routed(port, x, ids, weights, moved, *rest)

    port.routed = shifted


def last_row_left_out(port: Honest) -> None:
    def combined(down: Any, rows: Any, weights: Any) -> torch.Tensor:
        return type(port).combined(port, down[:-1], rows[:-1], weights)

    port.combined = combined


def slots_exchanged(port: Honest) -> None:
    def combined(down: Any, rows: Any, weights: Any) -> torch.Tensor:
        return type(port).combined(port, down, rows, weights.flip(1))

    port.combined = combined


def groups_by_maximum(port: Honest) -> None:
    def masked(key: torch.Tensor, layer: Layer) -> torch.Tensor:
        routing = replace(layer.routing, group_score="max")
        return type(port).masked(port, key, replace(layer, routing=routing))

    port.masked = masked


def requantised_scales_off_by_one(port: Honest) -> None:
    """Every E8M0 byte of the intermediate is one too large."""

    def as_seen(x: torch.Tensor, form: Any) -> torch.Tensor:
        is_x = x.shape[1] == 128
        return type(port).as_seen(port, x, form) * (1.0 if is_x else 2.0)

    port.as_seen = as_seen


MISTAKES: list[tuple[Callable[[Honest], None], str, str, str | None]] = [
    (no_clamp, "clamped", "heavy", "intermediate"),
    (swapped_halves, "softmax", "randn", "intermediate"),
    (no_renormalisation, "softmax", "randn", "weights"),
    (biased_weights, "grouped", "randn", "weights"),
    (one_scale_off_by_one, "clamped", "exact", "gate_up"),
    (late_bias, "clamped", "randn", "down"),
    (last_row_left_out, "softmax", "exact", None),
    (slots_exchanged, "softmax", "randn", None),
    (groups_by_maximum, "grouped", "randn", "ids"),
    (requantised_scales_off_by_one, "quantised", "randn", "down"),
]


@pytest.mark.parametrize(
    "mistake, layer, regime, stage", MISTAKES, ids=[m[0].__name__ for m in MISTAKES]
)
def test_pipeline_mistake_is_wrong_at_its_stage(
    honest: Callable[[], Honest],
    mistake: Callable[[Honest], None],
    layer: str,
    regime: str,
    stage: str | None,
) -> None:
    port = honest()
    mistake(port)
    record = check(port, f"moe {LAYERS[layer]} regime={regime} seed=1")
    assert record.kind is Kind.WRONG
    first = record.judgement.first
    assert (first.tap if first else None) == stage


def test_pipeline_mistake_is_wrong_where_no_stage_is_exposed(
    honest: Callable[[], Honest],
) -> None:
    """Hiding the stages changes what is known about the mistake, not the verdict."""
    port = honest()
    biased_weights(port)
    port.taps = ()
    port.moe = lambda x, logits, params, layer: type(port).moe(
        port, x, logits, params, layer
    )
    record = check(port, f"moe {LAYERS['grouped']} seed=1")
    assert record.kind is Kind.WRONG
    assert record.judgement.first is None


def test_pipeline_honest_port_with_the_wrong_declaration_is_undeclared(
    honest: Callable[[], Honest],
) -> None:
    port = honest()
    port.numerics = Numerics(accumulate="ffma", intermediate="fp32")
    record = check(port, f"moe {LAYERS['softmax']} seed=1")
    assert record.kind is Kind.UNDECLARED
    assert record.judgement.verdict.detail == "fits numerics.but(intermediate='bf16')"
    assert record.judgement.fitting[0] == "numerics.but(intermediate='bf16')"


def test_pipeline_undeclared_that_no_one_arithmetic_explains_is_wrong(
    honest: Callable[[], Honest],
) -> None:
    """One case needs bf16 where the other cannot have it."""
    port = honest()
    port.numerics = Numerics(accumulate="ffma", intermediate="fp32")
    verifier, loaded = Verifier(), port_of(port)
    first = verifier.check(loaded, parse(f"moe {LAYERS['softmax']} seed=1"))
    assert verifier.settled(first).kind is Kind.UNDECLARED
    no_renormalisation(port)
    second = verifier.check(loaded, parse(f"moe {LAYERS['softmax']} seed=1"))
    assert second.kind is Kind.WRONG
    settled = verifier.settled(first)
    assert settled.kind is Kind.WRONG
    assert settled.judgement.verdict.detail == (
        "no one known arithmetic fits this and the other cases"
    )


def test_pipeline_deviation_is_what_is_declared_but_not_the_model(
    honest: Callable[[], Honest],
) -> None:
    port = honest()
    no_clamp(port)

    def declares(layer: Layer) -> tuple[Layer, Numerics]:
        off = replace(layer.activation, limit=None)
        return replace(layer, activation=off), port.numerics

    port.declares = declares
    record = check(port, f"moe {LAYERS['clamped']} regime=heavy seed=1")
    assert record.kind in (Kind.BIT_EQUAL, Kind.WITHIN)
    assert record.deviation is not None
    assert record.deviation.verdict.kind is Kind.WRONG
    finding = record.deviating()
    assert finding is not None
    assert finding.deviation
    assert finding.first is not None
    assert finding.first.tap == "intermediate"


def test_pipeline_every_tactic_is_judged_and_the_worst_counts(
    honest: Callable[[], Honest],
) -> None:
    port, used = honest(), []

    def permute(ids: torch.Tensor, layer: Layer, *, tactic: str) -> Any:
        used.append(tactic)
        rows, offsets = type(port).permute(port, ids, layer)
        return (rows.flip(0) if tactic == "backwards" else rows), offsets

    port.permute = permute
    port.tactics = lambda case: ("sorted", "backwards", "sorted")
    record = check(port, "permute T=9 E=4 k=2")
    assert used == ["sorted", "backwards", "sorted"]
    assert record.kind is Kind.WRONG
    assert record.tactic == "backwards"
    assert "  tactic: backwards" in lines(record.finding())
    # Ops that take no tactic run once.
    assert check(port, "combine T=9 H=8 E=4 k=2").tactic == ""
    port.tactics = lambda case: case.no_such_field
    assert check(port, "permute T=9 E=4 k=2").kind is Kind.CRASHED


def test_pipeline_port_that_breaks_before_its_call_is_crashed(
    honest: Callable[[], Honest],
) -> None:
    port = honest()
    port.declares = lambda layer: layer.no_such_field
    record = check(port, LINES[0])
    assert record.kind is Kind.CRASHED
    assert "no_such_field" in record.log
    port = honest()
    port.supports = lambda case: case.no_such_field
    assert check(port, LINES[0]).kind is Kind.CRASHED


def test_pipeline_ties_go_to_the_lowest_index_unless_declared(
    honest: Callable[[], Honest],
) -> None:
    def highest(key: torch.Tensor, count: int) -> torch.Tensor:
        order = torch.sort(key.flip(-1), stable=True, dim=-1, descending=True).indices
        return key.shape[-1] - 1 - order[:, :count]

    problem = build(parse("route T=9 E=8 k=2"))
    equal = torch.ones_like(problem.inputs["logits"])

    def judged(port: Honest) -> Judgement:
        tied = problem.but(inputs={"logits": equal}, numerics=port.numerics)
        known = others("route", tied.layer, port.numerics)
        return judge(tied, run(port_of(port), tied), others=known)

    port = honest()
    assert judged(port).verdict.kind in (Kind.BIT_EQUAL, Kind.WITHIN)
    port.choose = highest
    found = judged(port)
    assert found.verdict.kind is Kind.UNDECLARED
    assert found.fitting[:2] == (
        "numerics.but(ties='highest')",
        "numerics.but(ties='any')",
    )
    port.numerics = port.numerics.but(ties="highest")
    assert judged(port).verdict.kind in (Kind.BIT_EQUAL, Kind.WITHIN)

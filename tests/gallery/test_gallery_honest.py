"""Honest ports are never wrong, however they add, round and order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from refmoe.case import Case
from refmoe.gallery import entries
from refmoe.gallery.entry import Entry
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.plan import DEFAULT_FORMATS, DEFAULT_MODELS, Cell, cases, cells
from refmoe.regimes import REGIMES
from refmoe.verdict import Kind
from refmoe.verify import Verifier, schedule

HONEST = entries("honest")
#: Verdicts that an honest port may get. SUSPECT is none of them: its probability, 2^-20
#: a product, makes it a surprise even in the long profile.
FINE = (
    Kind.BIT_EQUAL, Kind.WITHIN, Kind.AMBIGUOUS, Kind.UNDECIDED, Kind.UNSUPPORTED,
)  # fmt: skip
#: Cases of the long profile, over all ports.
MANY = 20_000


def some_cases(entry: Entry, count: int) -> Iterator[Case]:
    """Cases of the entry's op and of the layer, other ones for every entry."""
    place = list(HONEST).index(entry.name)
    ops = (entry.op, "moe") if entry.op != "moe" else ("moe",)
    found = cells(
        ops, entry.models or DEFAULT_MODELS, entry.formats or DEFAULT_FORMATS,
        tuple(REGIMES),
    )  # fmt: skip
    for number in range(count):
        # Coprime steps, so that cells and sizes meet in every combination.
        cell = found[(7 * number + place) % len(found)]
        yield list(cases(cell, 8))[(3 * number + place) % 8]


@pytest.mark.parametrize("name", HONEST)
def test_gallery_honest_port_is_never_wrong(name: str) -> None:
    port, verifier = port_of(HONEST[name].port(), name), Verifier()
    kinds = Counter[Kind]()
    for case in some_cases(HONEST[name], 8):
        record = verifier.check(port, case)
        verdict = record.judgement.verdict
        assert record.kind in FINE, f"{record.case}: {verdict} {record.log}"
        kinds[record.kind] += 1
    assert kinds[Kind.BIT_EQUAL] + kinds[Kind.WITHIN] > 0


def test_gallery_honest_ports_differ() -> None:
    """Catches a gallery that holds one implementation many times."""
    assert len(HONEST) >= 12
    changed = [
        (entry.at, entry.variant, entry.numerics, entry.declares)
        for entry in HONEST.values()
    ]
    assert len({repr(change) for change in changed}) >= len(HONEST) - 1


def test_gallery_nan_written_into_a_buffer_is_no_poison() -> None:
    """Catches poison that equals the NaN which torch writes: all bits set."""
    port = port_of(HONEST["into_a_buffer"].port())
    case = parse(
        "moe model=deepseek-v3 T=17 H=96 I=160 E=24 k=8 regime=heavy load=hot "
        "shared.intermediate=160 seed=8"
    )
    record = Verifier().check(port, case)
    assert record.kind in FINE, record.judgement.verdict


#: Cases that an honest port was once called wrong in, and why it is right.
ONCE_AN_ALARM = {
    "a sum on its way to bf16 is rounded to fp32 first": (
        "bf16_combine_by_expert",
        "experts model=gpt-oss-120b T=5 H=64 I=64 E=8 k=2 bias_dtype=fp32 seed=1061471",
    ),
    "so it is in exact sums that fp32 does not hold": (
        "bf16_combine_by_expert",
        "experts model=deepseek-v3 T=65 H=64 I=96 E=24 k=8 regime=exact load=hot "
        "shared.intermediate=96 seed=1100023",
    ),
    "a router in bf16 takes its bias in bf16": (
        "bf16_router",
        "route model=gpt-oss-120b T=33 H=160 I=64 E=17 k=4 regime=biased load=half "
        "seed=1088740",
    ),
    "equal keys are told apart by numbers, and a law gives others": (
        "hopper_fp8",
        "route model=deepseek-v3 T=33 H=64 I=32 E=24 k=8 regime=exact "
        "law=expert_numbers shared.intermediate=32 seed=1053104",
    ),
    "a scale of all weighted rows is not that of the judged tokens' rows": (
        "sequential",
        "experts T=16 H=16 I=1 E=2 k=2 activations=nvfp4 rows=8 weight_on=input "
        "activation.kind=gelu_erf seed=0",
    ),
    "an activation in bf16 takes gate and up in bf16, whatever type they come in": (
        "preset_hf_bf16",
        "activate T=1 H=1 I=13 E=2 k=2 dtype=fp16 constants=own seed=0",
    ),
    "blocks of many rows hold rows of both ranks": (
        "expert_parallel",
        "experts T=16 H=32 I=32 E=3 k=3 dtype=fp32 activations=fp8_block_128 "
        "requantize=fp8_block_128 regime=cancelling load=hot seed=631434",
    ),
    "the routed scale stands on the sum of all ranks": (
        "expert_parallel",
        "moe T=8 H=32 I=64 E=2 k=2 dtype=fp32 requantize=mxfp6_e2m3 "
        "regime=cancelling load=hot constants=own shard=0/2 expert_bias=true "
        "routing.scale=2.5 routing.scale_on=sum seed=406816",
    ),
    "one product of two FP8 codes is exact": (
        "hopper_fp8",
        "experts model=deepseek-v3 T=3 H=1 I=3 E=16 k=2 "
        "activations=fp8_group_128 regime=subnormal shared.intermediate=3 seed=5",
    ),
    "a router in bf16 adds product keys in bf16": (
        "bf16_router",
        "omni_route T=3 E=16 k=3 regime=rounding seed=508691",
    ),
    "x times its weight is a weighted row": (
        "preset_hf_gpt_oss_bf16",
        "moe T=3 H=32 I=32 E=4 k=1 dtype=fp32 activations=mxint8 regime=large "
        "weight_on=input seed=674481",
    ),
    "where weights are zero the model returns zeros too": (
        "weight_on_intermediate",
        "moe T=2 H=16 I=16 E=8 k=1 regime=heavy load=half logits_dtype=fp16 "
        "routing.bias=selection routing.epsilon=1e-20 routing.group_score=top2 "
        "routing.groups=4 routing.renormalize=sum_plus_epsilon "
        "routing.score=sigmoid routing.top_groups=2 seed=269764",
    ),
    "an expert without rows has the scale of all its rows": (
        "sequential",
        "grouped_quantize T=8 H=32 E=8 k=4 format=fp8_tensor load=half seed=0",
    ),
    "so has a call without tokens": (
        "sequential",
        "grouped_quantize T=0 H=32 E=3 k=3 format=fp8_tensor seed=0",
    ),
    "scales are found in fp32 from values in fp64 as well": (
        "preset_reference",
        "activate+quantize T=5 I=2 E=3 k=2 format=fp8_block_128:transformers "
        "regime=biased load=half slots=twice seed=138575",
    ),
    "the two of a sparse mixer have an order": (
        "by_index",
        "route T=2 E=4 k=2 routing.method=sparsemixer seed=0",
    ),
    "nobody says in which order the cubic of GELU multiplies": (
        "preset_hf_gpt_oss_bf16",
        "activate T=9 I=24 E=4 k=2 activation.kind=geglu_tanh seed=0",
    ),
}


@pytest.mark.parametrize("why", ONCE_AN_ALARM)
def test_gallery_honest_port_is_no_longer_wrong(why: str) -> None:
    name, line = ONCE_AN_ALARM[why]
    port = port_of(HONEST[name].port(), name)
    record = Verifier().check(port, parse(line))
    assert record.kind in FINE, record.judgement.verdict


def test_gallery_exact_regime_is_bit_equal_for_every_order_of_sums() -> None:
    """Catches operands meant to be exact that an honest order or unit could fail."""
    orders = [entry for entry in HONEST.values() if entry.at == "matmul"]
    narrow = ("split_k_in_bf16", "hopper_fp8")
    for entry in orders:
        if entry.name in narrow:
            continue
        port, verifier = port_of(entry.port(), entry.name), Verifier()
        for regime in ("exact", "cancelling"):
            for case in cases(Cell("grouped_gemm", "gpt-oss-120b", regime), 2):
                assert verifier.check(port, case).kind is Kind.BIT_EQUAL, case


@pytest.mark.long
@pytest.mark.parametrize("name", HONEST)
def test_gallery_honest_port_is_never_wrong_in_many_cases(name: str) -> None:
    """At least 20,000 cases over all ports, every op, and all seeds new."""
    entry = HONEST[name]
    port, verifier = port_of(entry.port(), name), Verifier()
    models = entry.models or DEFAULT_MODELS
    every = cells(
        tuple(port.ops), models, entry.formats or DEFAULT_FORMATS, tuple(REGIMES),
        confined=True,
    )  # fmt: skip
    count = -(-MANY // (len(HONEST) * len(every)))
    bad = []
    for _, cell, case in schedule([port], every, count, seed=1000):
        record = verifier.check(port, case, cell)
        if record.kind not in FINE:
            bad.append(f"{record.case}: {record.judgement.verdict}")
    assert not bad, "\n".join(bad)

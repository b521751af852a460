"""The structural dimensions of a case: what each promises, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from oracle import bounds
from oracle.models import MODELS
from oracle.params import Blocks
from oracle.trace import Tap
from refmoe import dimensions, reference
from refmoe.case import MEMORY
from refmoe.gallery.plain import Plain
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.problem import Problem, build, move, tensors
from refmoe.protocol import OPS
from refmoe.runner import run
from refmoe.verdict import Kind, Verdict
from refmoe.verify import Verifier
from refmoe.views import GAP, copied, laid_out

SMALL = {
    "route": "route T=9 E=8 k=2",
    "quantize": "quantize T=9 H=64 format=mxfp4",
    "dequantize": "dequantize T=9 H=64 format=mxfp4",
    "permute": "permute T=9 E=8 k=2",
    "grouped_quantize": "grouped_quantize T=9 H=64 E=6 k=3 format=mxfp8_e4m3",
    "grouped_gemm": "grouped_gemm T=9 H=96 I=64 E=6 k=3",
    "activate": "activate T=9 I=64 E=8 k=2",
    "experts": "experts T=9 H=64 I=32 E=8 k=2 weights=mxfp4",
    "combine": "combine T=9 H=64 E=8 k=4",
    "moe": "moe T=9 H=64 I=32 E=8 k=2 shared.intermediate=32",
    "omni_route": "omni_route T=9 E=16 k=5",
    "omni_route_backward": "omni_route_backward T=9 E=16 k=5",
    "omni_experts": "omni_experts T=9 H=64 E=16 k=5",
}
LINES = [
    *(f"{line} memory={memory}" for line in SMALL.values() for memory in MEMORY[1:]),
    *(
        f"{line} slots={slots}"
        for op, line in SMALL.items()
        for slots in dimensions.slots_of(op)[1:]
    ),
    *(
        f"{SMALL[op]} local={rank}"
        for op in ("permute", "experts", "moe")
        for rank in ("0/2", "1/2", "2/3")
    ),
    *(
        f"grouped_quantize T=9 H=96 E=6 k=3 format={form} slots=tail"
        for form in ("nvfp4", "fp8_tensor", "fp8_group_128", "int8_token")
    ),
    "moe T=9 H=64 I=96 E=6 k=2 shared.intermediate=64 shard=1/3",
    "moe T=9 H=64 I=96 E=6 k=2 shared.intermediate=64 shard=0/3",
    "experts model=gpt-oss-120b T=5 H=96 I=128 E=6 k=2 shard=1/2",
    "grouped_gemm model=gpt-oss-120b T=5 H=96 I=192 E=6 k=2 shard=1/2",
    "grouped_gemm T=5 H=64 I=64 E=6 k=2 weights=nvfp4 constants=own",
    "moe model=longcat-flash T=5 H=64 I=32 E=8 k=4 routing.zero_experts=4 local=0/2",
    "moe model=longcat-flash T=5 H=64 I=32 E=8 k=4 routing.zero_experts=4 local=1/2",
    "moe model=deepseek-v3 T=5 H=128 I=128 E=16 k=8 shared.intermediate=128 "
    "local=1/4 logits_dtype=bf16 bias_dtype=bf16",
    "route T=5 E=8 k=2 logits_dtype=fp16 routing.bias=logits bias_dtype=fp16",
    "activate T=9 I=64 E=8 k=2 constants=own",
    "activate T=9 I=64 E=8 k=2 activation.limit=0",
    "moe model=gpt-oss-120b T=5 H=64 I=64 E=8 k=4 constants=own bias_dtype=fp32",
    "route T=200 E=8 k=2 rows=7",
    "experts T=200 H=64 I=32 E=8 k=2 rows=7 weights=mxfp4 activations=nvfp4",
    "moe T=200 H=64 I=32 E=8 k=2 rows=7",
]


@pytest.mark.parametrize("line", LINES)
def test_dimension_round_trips_and_the_plain_port_is_right(line: str) -> None:
    """Catches a dimension that the oracle and an independent port read differently."""
    case = parse(line)
    assert parse(str(case)) == case
    record = Verifier().check(port_of(Plain()), case)
    assert record.kind in (Kind.BIT_EQUAL, Kind.WITHIN), (record.judgement, record.log)


REFUSED = [
    ("route T=1 E=4 k=2 slots=some", "route knows no slots=some; that goes with perm"),
    ("permute T=1 E=4 k=2 slots=tail", "that goes with grouped_gemm, grouped_quantize"),
    ("permute T=1 E=4 k=1 slots=twice", "slots=twice needs two slots of a token"),
    ("route T=1 E=4 k=2 local=0/2", "local goes with permute, experts, moe"),
    ("permute T=1 E=4 k=2 rows=1", "rows goes with route, experts, moe"),
    ("permute T=1 E=4 k=2 logits_dtype=bf16", "logits_dtype goes with route, moe"),
    ("permute T=1 E=4 k=2 local=1/5", "ranks=5 must lie in 1..4"),
    ("moe T=1 H=8 I=9 E=4 k=2 shard=0/2", "pad it to a multiple"),
    ("moe T=1 H=8 I=8 E=4 k=2 shard=0/2 local=0/2", "two ways to split a layer"),
    (
        "moe model=longcat-flash T=1 H=8 I=8 E=4 k=2 shard=1/2",
        "identity experts; use local",
    ),
    (
        "moe T=1 H=8 I=8 E=4 k=2 shared.intermediate=8 shared.combine=average "
        "shard=1/2",
        "no shared expert to combine by 'average'; use local",
    ),
    (
        "experts model=gpt-oss-120b T=1 H=2 I=32 E=4 k=1",
        "H=2 does not divide into blocks of 32 (mxfp4); give a multiple of that",
    ),
    (
        "moe T=1 H=32 I=48 E=4 k=1 requantize=mxfp8_e4m3",
        "I=48 does not divide into blocks of 32 (mxfp8_e4m3)",
    ),
    ("quantize T=1 H=33 format=nvfp4", "H=33 does not divide into blocks of 16"),
]


@pytest.mark.parametrize("line, reason", REFUSED, ids=[r for _, r in REFUSED])
def test_dimension_without_meaning_is_refused(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        build(parse(line))


# ---- memory


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("op", sorted(OPS.keys() & SMALL.keys()))
def test_memory_keeps_values_and_survives_the_copy(op: str, memory: str) -> None:
    plain = build(parse(SMALL[op]))
    moved = build(parse(f"{SMALL[op]} memory={memory}"))
    for name, value in moved.inputs.items():
        twin = tensors(plain.inputs[name], name)
        copy = tensors(move(value, "cpu"), name)
        for part, tensor in tensors(value, name).items():
            assert torch.equal(_bits(tensor), _bits(twin[part]))
            assert torch.equal(_bits(copy[part]), _bits(tensor))
            assert copy[part].stride() == tensor.stride()
            assert copy[part].data_ptr() % 64 == tensor.data_ptr() % 64


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def test_memory_lies_as_its_name_says() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert laid_out(x, "contiguous") is x
    strided = laid_out(x, "strided")
    assert strided.stride() == (3 + GAP, 1)
    # A kernel that takes the view for dense rows meets what is not its own.
    assert strided.as_strided((2, 3), (3, 1))[1].tolist() == [192.0] * 3
    assert laid_out(x, "offset").data_ptr() % 16 == 4
    assert laid_out(x, "transposed").stride() == (1, 2)
    assert laid_out(x[0], "transposed") is not None
    inside = copied(strided, "cpu").as_strided((3 + GAP,), (1,))
    assert inside[3:].tolist() == [192.0] * GAP


def test_memory_misaligned_is_unsupported_by_ports_that_need_alignment() -> None:
    port = port_of({"quantize": lambda x, format: x, "alignment": 16})
    case = parse(f"{SMALL['quantize']} memory=offset")
    assert port.unsupported(case) == (
        "alignment=16, but memory=offset aligns to elements only"
    )
    assert port.unsupported(case.but(memory="strided")) is None


# ---- slots


def test_slots_some_leave_tokens_without_any_expert() -> None:
    ids = build(parse("permute T=30 E=8 k=4 slots=some")).inputs["ids"]
    none = (ids == -1).all(1)
    assert bool(none[1::3].all())
    assert 0 < int((~none).sum())
    assert bool((ids[~none] == -1).any())
    assert bool(
        (build(parse("permute T=1 E=8 k=1 slots=some")).inputs["ids"] < 0).all()
    )


def test_slots_twice_repeat_an_expert_of_every_second_token() -> None:
    ids = build(parse("permute T=8 E=8 k=4 slots=twice")).inputs["ids"]
    twice = [len(set(row)) < 4 for row in ids.tolist()]
    assert twice == [True, False] * 4


def test_slots_tail_has_rows_past_the_last_offset() -> None:
    inputs = build(parse(f"{SMALL['grouped_gemm']} slots=tail")).inputs
    assert len(inputs["x"]) == int(inputs["offsets"][-1]) + 7


# ---- ranks


def test_local_without_the_keyword_is_unsupported() -> None:
    port = port_of({"permute": lambda ids, layer: ids})
    case = parse("permute T=1 E=4 k=2 local=0/2")
    assert port.unsupported(case) == "permute has no keyword `local`"
    assert run(port, build(case)).status == "unsupported"


def test_local_params_hold_the_experts_of_the_rank() -> None:
    whole = build(parse(SMALL["experts"]))
    part = build(parse(f"{SMALL['experts']} local=1/3"))
    assert part.inputs["local"] == (2, 5)
    assert isinstance(whole.params.down, Blocks)
    assert isinstance(part.params.down, Blocks)
    assert torch.equal(part.params.down.codes, whole.params.down.codes[2:5])
    assert part.params.down.codes.storage_offset() == 0
    assert part.layer == whole.layer


def total(problems: list[Problem]) -> Tap:
    parts = [_unrounded(problem) for problem in problems]
    return bounds.total(bounds.stack(parts), 1, "none", problems[0].numerics)


def _unrounded(problem: Problem) -> Tap:
    trace = reference.trace(problem.but(numerics=problem.numerics.but(output="none")))
    return trace["out"]


@pytest.mark.parametrize("split", ["local", "shard"])
@pytest.mark.parametrize("model", ["mixtral-8x7b", "gpt-oss-120b", "deepseek-v3"])
def test_ranks_add_up_to_the_whole_layer(model: str, split: str) -> None:
    """Catches a part counted twice or never: shared expert, bias of down, a run."""
    shared = "shared.intermediate=128" if MODELS[model].shared else ""
    line = f"moe model={model} T=5 H=128 I=192 E=16 k=4 regime=exact {shared}"
    plain = "weights=bf16 activations=bf16 requantize=bf16"
    whole = build(parse(f"{line} {plain}"))
    parts = [build(parse(f"{line} {plain} {split}={rank}/3")) for rank in range(3)]
    want, got = _unrounded(whole), total(parts)
    reach = sum(t.worst for t in (want, got) if t.worst is not None)
    assert bool(((want.value - got.value).abs() <= reach).all())
    assert float(want.value.abs().max()) > 0


def test_shard_pads_the_intermediate_with_zeros_that_change_nothing() -> None:
    part = build(parse("moe T=5 H=64 I=96 E=6 k=2 shard=1/2"))
    assert part.layer.intermediate == 64
    down = part.params.down
    assert isinstance(down, torch.Tensor)
    assert bool((down[..., 48:] == 0).all())
    assert bool((down[..., :48] != 0).any())


# ---- types, constants, samples


def test_dtypes_of_logits_and_biases_are_their_own() -> None:
    line = (
        "moe model=gpt-oss-120b T=3 H=64 I=32 E=8 k=2 logits_dtype=fp16 bias_dtype=fp32"
    )
    problem = build(parse(line))
    assert problem.inputs["logits"].dtype == torch.float16
    for name in ("gate_up_bias", "down_bias", "router_bias"):
        assert getattr(problem.params, name).dtype == torch.float32


def test_constants_own_differ_from_expert_to_expert() -> None:
    line = "experts T=3 H=64 I=32 E=8 k=2 weights=nvfp4"
    params = build(parse(f"{line} constants=own")).params
    for name in ("alpha", "beta", "limit"):
        values = getattr(params, name)
        assert bool((values[1:] != values[:-1]).all()), name
    assert isinstance(params.down, Blocks)
    scale: Any = params.down.global_scale
    assert bool((scale[1:] != scale[:-1]).all())
    shared: Any = build(parse(line)).params
    assert shared.limit is None
    assert bool((shared.down.global_scale == shared.down.global_scale[0]).all())


def test_sampled_rows_are_judged_and_no_others() -> None:
    problem = build(parse(f"moe T=200 {SMALL['moe'].split(' ', 2)[2]} rows=7"))
    assert problem.sample is not None
    assert len(problem.sample) == 7

    def wrong_at(token: int) -> Verdict:
        port = Plain()
        honest = port.moe

        def moe(x: Any, logits: Any, params: Any, layer: Any) -> torch.Tensor:
            out = honest(x, logits, params, layer)
            out[token] += 1.0
            return out

        named = {"moe": moe, "device": "cpu"}
        record = Verifier().check(port_of(named, "wrong"), problem.case)
        return record.judgement.verdict

    judged = problem.sample.tolist()
    other = next(token for token in range(200) if token not in judged)
    found = wrong_at(judged[3])
    assert found.kind is Kind.WRONG
    assert found.index[0] == judged[3]
    assert wrong_at(other).kind in (Kind.BIT_EQUAL, Kind.WITHIN)


# ---- spans


SPAN = "activate+quantize T=9 I=64 E=6 k=2 seed=2"


@pytest.mark.parametrize("form", ["mxfp8_e4m3", "mxfp4", "nvfp4", "fp8_group_128"])
def test_span_is_judged_by_the_bytes_that_its_stages_admit(form: str) -> None:
    """Catches one wrong byte, and a judge that takes the other candidate for wrong."""
    case = parse(f"{SPAN} format={form}")
    plain = Plain()
    fine = (Kind.BIT_EQUAL, Kind.WITHIN)
    assert Verifier().check(port_of(plain), case).kind in fine

    def fused(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        codes, scales = plain.activate_quantize(*arguments)
        codes[3, 5] ^= 2
        return codes, scales

    record = Verifier().check(
        port_of({"activate+quantize": fused, "device": "cpu"}), case
    )
    assert record.kind is Kind.WRONG
    assert record.judgement.verdict.tap == "codes"
    assert record.judgement.verdict.index == (3, 5)


def test_span_is_found_by_its_name_as_an_identifier() -> None:
    def activate_quantize(
        gate_up: Any, params: Any, layer: Any, expert: Any, format: Any
    ) -> None: ...

    assert list(port_of(activate_quantize).ops) == ["activate+quantize"]
    with pytest.raises(ValueError, match="'activate\\+quantise'; did you mean"):
        parse("activate+quantise T=1 I=64 E=2 k=1")


def test_span_takes_a_calibrated_global_scale_and_may_hand_it_back() -> None:
    problem = build(parse(f"{SPAN} format=nvfp4"))
    plain = Plain()

    def blocks(gate_up: Any, params: Any, layer: Any, expert: Any, format: Any) -> Any:
        hidden = plain.activate(gate_up, params, layer, expert)
        return plain.quantize(hidden, format, params.intermediate_scale)

    port = port_of({"activate_quantize": blocks, "device": "cpu"})
    record = Verifier().check(port, problem.case)
    assert record.kind in (Kind.BIT_EQUAL, Kind.WITHIN), record.judgement
    assert problem.params.intermediate_scale is not None
    assert build(parse(f"{SPAN} format=mxfp4")).params.intermediate_scale is None


def test_load_hot_respects_the_groups_that_the_router_keeps() -> None:
    """Catches a hot expert whose group a token's other experts leave no room for."""
    line = (
        "permute model=deepseek-v3 T=64 E=32 k=8 load=hot routing.groups=8 "
        "routing.top_groups=4 seed={}"
    )
    for seed in range(8):
        ids = build(parse(line.format(seed))).inputs["ids"]
        assert all(len(set(row)) <= 4 for row in (ids // 4).tolist())
        assert all(len(set(row)) == 8 for row in ids.tolist())
        shared = set(ids[0].tolist()).intersection(*map(set, ids.tolist()))
        assert len(shared) == 1

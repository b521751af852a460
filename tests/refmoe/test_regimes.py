"""The regimes: what each promises about its values, and that problems are the same."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch

from oracle.blocks import dequantize
from oracle.bounds import rounded
from oracle.numerics import Numerics
from oracle.params import Blocks
from oracle.spec import Layer
from refmoe import reference
from refmoe.case import LOADS, Case
from refmoe.parse import parse
from refmoe.problem import Problem, build, move, tensors
from refmoe.regimes import REGIMES, regime
from refmoe.regimes.load import ids as load_ids

MOE = "moe T=16 H=96 I=64 E=8 k=2"


def everything(problem: Problem) -> dict[str, torch.Tensor]:
    found = tensors(problem.params, "params")
    for name, value in problem.inputs.items():
        found |= tensors(value, name)
    return {name: tensor for name, tensor in found.items() if not tensor.is_meta}


def digest(problem: Problem) -> str:
    hashed = hashlib.sha256()
    for name, tensor in everything(problem).items():
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        hashed.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode() + data)
    return hashed.hexdigest()[:16]


# A replayed case must be the same problem on every machine and version.
FROZEN = [
    (
        "moe model=gpt-oss-120b T=4 H=64 I=32 E=8 k=4 regime=randn",
        "88b636c77b3f7405",
    ),
    (
        "moe model=deepseek-v3 T=4 H=128 I=128 E=16 k=8 shared.intermediate=128",
        "2f6e8b97a1d22dfb",
    ),
    (
        "moe T=4 H=64 I=32 E=8 k=4 weights=mxfp4 regime=heavy load=half",
        "14422784e70f5b5d",
    ),
    (
        "experts T=3 H=64 I=32 E=4 k=2 weights=nvfp4 regime=exact load=hot",
        "683a3e5f85d8c7c3",
    ),
    (
        "quantize T=3 H=64 format=mxfp4 regime=heavy seed=3",
        "57ae21e0215bcbf5",
    ),
    (
        "route model=deepseek-v4-flash-hash T=9 E=16 k=6 load=high seed=4",
        "7283693e0af52989",
    ),
]


@pytest.mark.parametrize("line, want", FROZEN)
def test_problem_of_a_case_is_frozen(line: str, want: str) -> None:
    assert digest(build(parse(line))) == want


def test_problem_changes_with_the_seed_and_the_regime() -> None:
    lines = [f"{MOE} regime={name} seed={seed}" for name in REGIMES for seed in (0, 1)]
    assert len({digest(build(parse(line))) for line in lines}) == len(lines)


@pytest.mark.parametrize("name", REGIMES)
@pytest.mark.parametrize("form", ["bf16", "fp32", "mxfp4", "nvfp4", "fp8_block_128"])
def test_regime_builds_every_op_of_every_format(name: str, form: str) -> None:
    changes = "expert_bias=true routing.bias=selection shared.intermediate=64"
    case = parse(f"{MOE} weights={form} regime={name} {changes}")
    for op in ("moe", "experts", "grouped_gemm", "activate", "combine", "route"):
        problem = build(case.but(op=op, H=128, I=128))
        for tensor in everything(problem).values():
            if tensor.is_floating_point():
                assert bool(tensor.isfinite().all()) or name == "nonfinite"
        reference.trace(problem)


def test_regime_unknown_name_is_pointed_out() -> None:
    with pytest.raises(ValueError, match="no regime is called 'exakt'; did you mean"):
        regime("exakt")


def values(weight: Any) -> torch.Tensor:
    return dequantize(weight) if isinstance(weight, Blocks) else weight.double()


@pytest.mark.parametrize("form", ["bf16", "mxfp4", "mxfp8_e4m3", "nvfp4", "int8_token"])
def test_randn_gates_are_of_order_one(form: str) -> None:
    """Neither vanishing nor saturated, whatever the width and the weights' format."""
    for hidden in (32, 512):
        case = parse(f"moe T=16 H={hidden} I=32 E=4 k=2 weights={form} seed=1")
        gate_up = reference.trace(build(case))["gate_up"].value
        assert 0.1 < float(gate_up.std()) < 4.0


def test_heavy_neighbouring_blocks_differ_by_binades() -> None:
    problem = build(parse(f"{MOE} weights=mxfp4 regime=heavy seed=1"))
    weight = problem.params.gate_up
    assert isinstance(weight, Blocks)
    scales = weight.scales.long()
    assert int(scales.max() - scales.min()) >= 11
    x = problem.inputs["x"].double().abs().reshape(16, 3, 32).amax(-1)
    spread = torch.frexp(x).exponent
    assert int(spread.max() - spread.min()) >= 10


def test_heavy_reaches_the_limits() -> None:
    problem = build(parse(f"{MOE} activation.limit=7 regime=heavy seed=1"))
    gate_up = reference.trace(problem)["gate_up"].value
    gate, up = gate_up.chunk(2, 1)
    for half in (gate, -gate, up, -up):
        assert float((half > 7).double().mean()) > 0.05


EXACT = [
    "moe T=9 H=64 I=32 E=8 k=2 routing.renormalize=sum",
    "moe T=9 H=64 I=32 E=8 k=4 routing.score=sigmoid routing.bias=selection "
    "routing.renormalize=sum routing.scale=2.5",
    "moe T=9 H=96 I=64 E=8 k=4 weights=mxfp4 expert_bias=true activation.beta=1 "
    "activation.alpha=1.702 activation.limit=64 routing.order=topk_then_score "
    "routing.bias=logits",
    "moe T=9 H=96 I=64 E=8 k=2 weights=fp8_block_128 shared.intermediate=64 "
    "shared.combine=gated",
    "experts T=9 H=384 I=96 E=8 k=3 weights=nvfp4",
    "experts T=9 H=64 I=64 E=8 k=2 weights=mxfp4 activations=mxfp8_e4m3 "
    "requantize=mxfp8_e4m3",
    "moe T=9 H=64 I=32 E=8 k=2 activation.kind=geglu_tanh",
    "experts T=9 H=64 I=32 E=8 k=2 activation.kind=relu2",
    "activate T=9 I=64 E=4 k=2",
    "grouped_gemm T=9 H=512 I=64 E=4 k=2 weights=mxfp4",
    "combine T=9 H=64 E=8 k=4",
]


@pytest.mark.parametrize("line", EXACT)
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_result_is_exact_by_the_oracle(line: str, seed: int) -> None:
    problem = build(parse(f"{line} regime=exact seed={seed}"))
    last = list(reference.trace(problem).values())[-1]
    assert rounded(last, problem.layer.dtype, problem.numerics).exact
    assert float(last.value.abs().max()) > 0


def test_exact_saturates_gates_both_ways_and_spares_none() -> None:
    trace = reference.trace(build(parse(f"{MOE} weights=mxfp4 regime=exact")))
    gate = trace["gate_up"].value.chunk(2, 1)[0]
    assert float(gate.abs().min()) > 38
    assert 0.3 < float((gate > 0).double().mean()) < 0.7


def test_exact_falls_back_to_a_bound_where_the_layer_prevents_it() -> None:
    """A limit of 7 leaves the sigmoid below 1: the oracle must see that."""
    line = "activate T=9 I=32 E=8 k=4 activation.limit=7 regime=exact"
    problem = build(parse(line), Numerics(intermediate="fp32"))
    assert not reference.trace(problem)["intermediate"].exact
    raised = build(parse(line.replace("=7", "=64")), Numerics(intermediate="fp32"))
    assert reference.trace(raised)["intermediate"].exact


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("k", [1, 3, 8])
def test_load_gives_distinct_experts_of_its_own(load: str, k: int) -> None:
    layer = Layer(8, 8, 8, k)
    ids = load_ids(Case("moe", T=33, load=load, seed=3), layer)
    assert ids.shape == (33, k)
    assert all(len(set(row)) == k for row in ids.tolist())
    used = ids.unique()
    if load == "hot":
        counts = torch.bincount(ids.reshape(-1), minlength=8)
        assert int(counts.max()) == 33
    elif load == "half":
        assert len(used) == max(4, k)
    elif load == "high":
        assert used.tolist() == list(range(8 - max(2, k), 8))
    else:
        assert len(used) == 8


def test_load_respects_the_groups_that_stay() -> None:
    case = parse("moe T=33 H=8 I=8 E=16 k=4 routing.groups=4 routing.top_groups=2")
    ids = load_ids(case, case.layer)
    groups = (ids // 4).sort(1).values
    assert int(((groups[:, 1:] != groups[:, :-1]).sum(1) + 1).max()) <= 2


@pytest.mark.parametrize("load", ["hot", "half", "high"])
def test_load_shows_in_what_the_router_chooses(load: str) -> None:
    problem = build(parse(f"moe T=33 H=8 I=8 E=16 k=2 load={load} seed=3"))
    chosen = reference.trace(problem)["ids"].value
    counts = torch.bincount(chosen.reshape(-1), minlength=16)
    if load == "hot":
        assert int(counts.max()) == 33
    elif load == "half":
        assert int((counts > 0).sum()) <= 8
    else:
        assert int(chosen.min()) >= 12


def test_move_copies_every_tensor() -> None:
    params = build(parse(f"{MOE} weights=mxfp4")).params
    copy = move(params, "cpu")
    for name, tensor in tensors(params).items():
        twin = tensors(copy)[name]
        assert torch.equal(twin, tensor)
        assert twin.data_ptr() != tensor.data_ptr()


def test_codes_has_no_infinite_scale() -> None:
    """Catches bf16's last exponent rounded past its largest value."""
    line = "grouped_gemm model=kimi-k2-thinking T=4 H=64 I=32 E=16 k=8 regime=codes"
    weights = build(parse(line)).inputs["weights"]
    assert isinstance(weights, Blocks)
    assert weights.scales.isfinite().all()
    assert float(weights.scales.max()) == torch.finfo(torch.bfloat16).max


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_codes_has_no_infinite_token(dtype: str) -> None:
    """Catches -128 times the highest power: int8 takes no infinity."""
    line = f"quantize T=129 H=32 dtype={dtype} format=int8_token regime=codes seed=252"
    assert build(parse(line)).inputs["x"].isfinite().all()

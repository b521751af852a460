"""Experts and whole layers: every format of weights and activations, judged; ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.blocks import preset
from oracle.params import Params, Streamed
from oracle.shard import expert_parallel
from oracle.spec import Layer, Routing, Shared
from refmoe.kernels import port
from refmoe.kernels.launchers.experts import experts
from refmoe.kernels.launchers.modular import dispatch
from refmoe.kernels.launchers.moe import FORMS, moe
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.problem import build
from refmoe.verdict import Kind
from refmoe.verify import Verifier

RIGHT = (Kind.BIT_EQUAL, Kind.WITHIN, Kind.AMBIGUOUS)
SIZES = "T=5 H=128 I=128 E=3 k=2"


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    return Verifier()


@pytest.mark.parametrize("regime", ["randn", "exact tactic=mma_medium"])
@pytest.mark.parametrize(
    "formats",
    [
        ("fp16",) * 3, ("fp32",) * 3,
        ("int8_channel", "int8_token", "int8_token"),
        ("mxfp8_e4m3", "mxfp8_e4m3", "mxfp8_e4m3"),
        ("mxfp4", "mxfp8_e4m3", "mxfp8_e4m3"),
        ("mxfp4", "bf16", "bf16"),
        ("fp8_block_128", "fp8_group_128", "fp8_group_128"),
        ("nvfp4", "nvfp4", "nvfp4"),
        ("fp8_channel", "fp8_tensor", "fp8_tensor"),
    ],
    ids=lambda formats: "-".join(dict.fromkeys(formats)),
)  # fmt: skip
def test_experts_are_right_in_every_format(
    formats: tuple[str, str, str], regime: str, verifier: Verifier, host_compiler: str
) -> None:
    weights, activations, requantize = formats
    plain = weights in ("fp16", "fp32")
    line = (
        f"experts {SIZES} dtype={weights if plain else 'bf16'} weights={weights} "
        f"activations={activations} requantize={requantize} regime={regime} seed=3"
    )
    record = verifier.check(load("refmoe.kernels.emulated"), parse(line))
    assert record.kind in RIGHT, record.log


@pytest.mark.parametrize(
    "line",
    [
        "moe model=llama-4-scout T=5 H=64 I=32 E=4 k=1 regime=randn seed=1",
        "moe model=qwen2-moe-a2.7b T=5 H=64 I=32 E=4 k=2 shared.intermediate=64 "
        "regime=randn seed=1",
        "moe model=inkling T=5 H=64 I=32 E=4 k=2 shared.intermediate=64 regime=randn "
        "seed=1",
        "moe model=longcat-flash T=5 H=64 I=32 E=4 k=2 routing.zero_experts=3 "
        "regime=randn seed=1",
        "moe model=minimax-m3 T=5 H=64 I=32 E=4 k=2 shared.intermediate=32 "
        "regime=randn seed=1",
        "moe model=deepseek-v4-flash T=5 H=128 I=128 E=4 k=2 shared.intermediate=128 "
        "regime=randn seed=1",
        "moe model=deepseek-v4-flash T=5 H=128 I=128 E=4 k=2 shared.intermediate=128 "
        "local=1/2 regime=randn seed=1",
        "experts model=gpt-oss-120b T=5 H=64 I=64 E=4 k=2 constants=own slots=twice "
        "bias_dtype=fp32 regime=randn seed=1",
        "experts model=gpt-oss-120b T=5 H=64 I=64 E=4 k=2 shard=1/2 memory=offset "
        "regime=randn seed=1",
    ],
    ids=lambda line: "-".join(line.split()[1:8:5]),
)
def test_moe_is_right_for_odd_models(
    line: str, verifier: Verifier, host_compiler: str
) -> None:
    record = verifier.check(load("refmoe.kernels.emulated"), parse(line))
    assert record.kind in RIGHT, record.log


@pytest.mark.parametrize(
    "line",
    [
        "model=deepseek-v3 E=16 shared.intermediate=128 regime=exact",
        "model=deepseek-v3.1 E=16 shared.intermediate=192",
        "model=deepseek-v4-flash E=4 shared.intermediate=128 shared.weights=nvfp4 "
        "weights=nvfp4 activations=nvfp4 requantize=nvfp4 tactic=mma_medium",
        "model=llama-4-scout E=4 shared.intermediate=64 shared.weights=mxfp8_e4m3 "
        "activations=mxfp8_e4m3 requantize=mxfp8_e4m3",
        "model=llama-4-scout E=4 shared.intermediate=64 shared.weights=mxfp4",
        "model=inkling E=4 shared.intermediate=128 shared.weights=fp8_block_128 "
        "activations=fp8_group_128 requantize=fp8_group_128",
    ],
    ids=lambda line: "-".join(line.split()[:4:2]),
)
def test_moe_quantises_what_meets_shared_blocks(
    line: str, verifier: Verifier, host_compiler: str
) -> None:
    """Catches x weighted before it is quantised, and an intermediate that is not."""
    k = 1 if "llama" in line else 2
    line = f"moe T=5 H=128 I=128 k={k} seed=1 {line}"
    if "tactic" not in line:
        line += " tactic=naive"
    record = verifier.check(load("refmoe.kernels.emulated"), parse(line))
    assert record.kind in RIGHT, record.log


@pytest.mark.parametrize(
    "line",
    [
        "model=deepseek-v3 E=16 shared.intermediate=128 regime=exact law=tactics",
        "model=mixtral-8x7b E=4 weights=nvfp4 activations=nvfp4 requantize=nvfp4 "
        "law=tactics",
        "model=mixtral-8x7b E=4 weights=nvfp4 activations=nvfp4 requantize=nvfp4 "
        "law=modular",
        "model=mixtral-8x7b E=4 weights=fp8_block_128 activations=fp8_group_128 "
        "requantize=fp8_group_128 law=modular",
        "model=llama-4-scout E=4 shared.intermediate=64 activations=fp8_tensor "
        "requantize=fp8_tensor weights=fp8_channel tactic=modular:naive",
        "model=deepseek-v3 E=16 shared.intermediate=128 tactic=modular_late:naive",
        "model=gpt-oss-120b E=5 local=1/2 tactic=modular:naive",
    ],
    ids=lambda line: "-".join(line.split()[:3:2] + line.split()[-1:]),
)
def test_moe_from_parts_is_the_whole(
    line: str, verifier: Verifier, host_compiler: str
) -> None:
    """Catches rows that part from their scales or weights on the way to an expert."""
    k = 1 if "llama" in line else 2
    case = parse(f"moe T=9 H=128 I=128 k={k} seed=1 {line}")
    record = verifier.check(load("refmoe.kernels.emulated"), case)
    assert record.kind in RIGHT, record.log


def test_moe_offers_the_forms_that_x_allows() -> None:
    def forms(activations: str, **changes: Any) -> tuple[str, ...]:
        form = activations if activations == "bf16" else preset(activations)
        return port.forms(Layer(128, 128, 4, 2, activations=form, **changes))

    assert forms("bf16") == forms("mxfp8_e4m3") == FORMS
    assert forms("nvfp4") == forms("fp8_tensor") == ("monolithic", "modular")
    assert forms("fp8_block_128") == ("monolithic",)
    assert forms("fp8_block_128", weight_on="input") == FORMS


def test_dispatch_refuses_blocks_that_span_rows(emulated: None) -> None:
    layer = Layer(8, 8, 4, 2, dtype="fp32", activations=preset("fp8_block_128"))
    with pytest.raises(ValueError, match=r"fp8_block_128 are \(128, 128\) and span"):
        dispatch(X, IDS, WEIGHTS, PARAMS, layer)


def test_moe_of_all_ranks_adds_up(emulated: None) -> None:
    """Catches a shared or identity expert that every rank adds, and global ids."""
    line = (
        "moe model=longcat-flash T=5 H=32 I=32 E=5 k=2 routing.zero_experts=3 "
        "dtype=fp32 weights=fp32 activations=fp32 requantize=fp32 "
        "shared.intermediate=32 regime=exact seed=2"
    )
    problem = build(parse(line))
    x, logits = problem.inputs["x"], problem.inputs["logits"]
    whole = moe(x, logits, problem.params, problem.layer)
    parts = [
        moe(x, logits, shard.params, problem.layer, local=shard.local)
        for shard in expert_parallel(problem.layer, problem.params, 3)
    ]
    assert torch.equal(sum(parts[1:], parts[0]), whole)


LAYER = Layer(8, 8, 4, 2, dtype="fp32", weights="fp32", activations="fp32")
PARAMS = Params(torch.zeros(4, 16, 8), torch.zeros(4, 8, 8))
X, IDS, WEIGHTS = torch.zeros(3, 8), torch.zeros(3, 2).int(), torch.zeros(3, 2)
STREAMED = Params(
    Streamed(lambda e: torch.zeros(16, 8), torch.Size((4, 16, 8))), PARAMS.down
)
ZERO = Layer(
    8, 8, 4, 2, dtype="fp32", weight_on="input", routing=Routing(zero_experts=1)
)


@pytest.mark.parametrize(
    ("layer", "params", "changes", "message"),
    [
        (LAYER, PARAMS, {"x": X[:, :4].contiguous()}, "x has shape .* must be"),
        (LAYER, PARAMS, {"ids": IDS[:2]}, r"ids has shape \(2, 2\); it must be"),
        (LAYER, PARAMS, {"weights": WEIGHTS[:, :1].contiguous()}, "weights has shape"),
        (LAYER, PARAMS, {"local": (0, 3)}, "gate_up has shape"),
        (LAYER, STREAMED, {}, "gate_up is streamed; the kernels need all experts"),
        (ZERO, PARAMS, {}, "identity experts take their weight on the output"),
        (Layer(8, 8, 4, 2, dtype="fp64"), PARAMS, {}, "dtype='fp64'; the kernels"),
        (Layer(8, 8, 4, 2, shared=Shared(8)), PARAMS, {}, "shared_gate_up is missing"),
    ],
)  # fmt: skip
def test_experts_refuse(
    layer: Layer, params: Params, changes: dict[str, object], message: str,
    emulated: None,
) -> None:  # fmt: skip
    given = {"x": X, "ids": IDS, "weights": WEIGHTS, **changes}
    with pytest.raises(ValueError, match=message):
        experts(params=params, layer=layer, **given)  # type: ignore[arg-type]

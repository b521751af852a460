"""What the presets declare is what released code does: transformers and torch."""

import pytest
import torch
import torch.nn.functional as F
from transformers import GptOssConfig, MixtralConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from oracle import bounds
from oracle.activation import activate
from oracle.experts import combine, grouped_gemm
from oracle.formats import round_to
from oracle.numerics import PRESETS, Numerics
from oracle.permutation import permute
from oracle.spec import Activation
from oracle.trace import Tap

TOKENS, HIDDEN, WIDTH, EXPERTS, TOP_K = 24, 64, 48, 6, 3


def draw(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=source) * scale).bfloat16()


def run(module: torch.nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """The eager loop over experts, whatever the decorator around it would choose."""
    with torch.no_grad():
        return type(module).forward.__wrapped__(module, *inputs)


def mixtral(dtype: torch.dtype) -> tuple[torch.nn.Module, Activation]:
    config = MixtralConfig(
        hidden_size=HIDDEN, intermediate_size=WIDTH, num_local_experts=EXPERTS
    )
    return MixtralExperts(config).to(dtype), Activation()


def gpt_oss(dtype: torch.dtype) -> tuple[torch.nn.Module, Activation]:
    config = GptOssConfig(
        hidden_size=HIDDEN, intermediate_size=WIDTH, num_local_experts=EXPERTS
    )
    module = GptOssExperts(config).to(dtype)
    return module, Activation(alpha=module.alpha, beta=1.0, limit=module.limit)


def taps(
    module: torch.nn.Module, activation: Activation, inputs: tuple, numerics: Numerics
) -> Tap:
    """The same experts through the oracle, under what `numerics` declares."""
    x, ids, weights = inputs
    state = {name: t.detach().double() for name, t in module.named_parameters()}
    gate_up, down = state["gate_up_proj"], state["down_proj"]
    biases = {}
    if isinstance(module, GptOssExperts):
        # Stored [E, in, out], gate and up rows alternating.
        gate_up, down = gate_up.mT, down.mT
        order = torch.cat(
            [torch.arange(0, 2 * WIDTH, 2), torch.arange(1, 2 * WIDTH, 2)]
        )
        gate_up = gate_up[:, order]
        biases["gate_up"] = state["gate_up_proj_bias"][:, order]
        biases["down"] = state["down_proj_bias"]
    places = permute(ids, EXPERTS)
    rows = Tap(x.double()[places.tokens])
    hidden = grouped_gemm(
        rows, gate_up, places.offsets, numerics,
        bias=biases.get("gate_up"), point=numerics.gate_up,
    )  # fmt: skip
    hidden = activate(hidden, activation, numerics)
    hidden = bounds.rounded(hidden, numerics.intermediate, numerics)
    result = grouped_gemm(
        hidden, down, places.offsets, numerics,
        bias=biases.get("down"), point=numerics.down,
    )  # fmt: skip
    return combine(result, places, Tap(weights.double()), numerics)


def case(build, dtype: torch.dtype, weights_type: torch.dtype):
    module, activation = build(dtype)
    for seed, parameter in enumerate(module.parameters()):
        scale = 0.25 if parameter.ndim == 3 else 1.0
        parameter.data = draw(*parameter.shape, seed=seed, scale=scale).to(dtype)
    ids = torch.stack([torch.randperm(EXPERTS)[:TOP_K] for _ in range(TOKENS)])
    weights = torch.softmax(draw(TOKENS, TOP_K, seed=9).float(), -1).to(weights_type)
    return module, activation, (draw(TOKENS, HIDDEN, seed=10).to(dtype), ids, weights)


@pytest.mark.parametrize(
    "build, preset, dtype, weights_type",
    [
        (mixtral, "hf_bf16", torch.bfloat16, torch.float32),
        (gpt_oss, "hf_gpt_oss_bf16", torch.bfloat16, torch.bfloat16),
        (mixtral, "hf_fp32", torch.float32, torch.float32),
        (gpt_oss, "hf_fp32", torch.float32, torch.float32),
    ],
    ids=["mixtral", "gpt_oss", "mixtral_fp32", "gpt_oss_fp32"],
)
def test_preset_covers_transformers_eager_experts(build, preset, dtype, weights_type):
    torch.manual_seed(0)
    module, activation, inputs = case(build, dtype, weights_type)
    got = run(module, *inputs).double()
    tap = taps(module, activation, inputs, PRESETS[preset])
    error = (got - tap.value).abs()
    assert (error <= tap.worst).all()
    assert (error <= tap.likely).all()
    # Rows that are certain are bit-equal, and in bf16 there are some.
    if dtype is torch.bfloat16:
        assert (error[tap.worst == 0] == 0).all()
    # Against fp32 between the GEMMs the bf16 roundings show.
    other = taps(module, activation, inputs, PRESETS["hf_fp32"].but(gemm="none"))
    outside = (got - other.value).abs() > other.worst
    assert bool(outside.any()) is (dtype is torch.bfloat16)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_torch_matmul_in_16_bits_rounds_its_fp32_sum_once(dtype):
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    x, w = draw(64, 512, seed=1).to(kind), draw(96, 512, seed=2).to(kind)
    got = (x @ w.T).double()
    numerics = PRESETS["torch_cpu"]
    tap = bounds.matmul(Tap(x.double()), Tap(w.double()), numerics)
    assert ((got - tap.value).abs() > tap.worst).any()
    tap = bounds.rounded(tap, dtype, numerics)
    assert ((got - tap.value).abs() <= tap.worst).all()
    if dtype == "bf16":
        # Nearly all elements are far from a boundary, whatever the order of the sum.
        assert (tap.likely == 0).double().mean() > 0.9


@pytest.mark.parametrize("name", ["silu", "sigmoid"])
def test_torch_activations_in_bf16_round_once(name):
    x = draw(1 << 16, seed=3, scale=8.0)
    got = getattr(F, name)(x).double()
    exact = torch.sigmoid(x.double()) * (x.double() if name == "silu" else 1.0)
    numerics = Numerics()
    tap = bounds.sigmoid(Tap(x.double()), numerics)
    if name == "silu":
        tap = bounds.multiply(tap, Tap(x.double()), "fp32", numerics)
    tap = bounds.rounded(tap, "bf16", numerics)
    assert ((got - tap.value).abs() <= tap.worst).all()
    assert (got == round_to(exact, "bf16")).double().mean() > 0.999


def test_torch_index_add_in_bf16_rounds_every_partial_sum():
    """One call for each expert, as in the eager loop. (A call in which indices repeat
    may add those up in fp32 first.)"""
    rows = draw(8, 64, 32, seed=4)
    got = torch.zeros(64, 32, dtype=torch.bfloat16)
    for part in rows:
        got.index_add_(0, torch.arange(64), part)
    tap = bounds.total(Tap(rows.double()), 0, "bf16", Numerics(), order="slot")
    assert torch.equal(got.double(), tap.value)
    assert tap.exact

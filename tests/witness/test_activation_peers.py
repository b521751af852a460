"""Activations against transformers' own modules and torch's functions."""

import types

import pytest
import torch
import torch.nn.functional as F
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4Experts
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.inkling2.modeling_inkling2 import Inkling2SoftcappedSwiGLU
from transformers.models.minimax_m3_vl.modeling_minimax_m3_vl import MiniMaxM3VLExperts
from transformers.models.step3p7.modeling_step3p7 import Step3p7Experts

from oracle import bounds
from oracle.activation import activate
from oracle.numerics import PRESETS, Elementary, Numerics
from oracle.spec import Activation


#: What a released module computes, given itself and [gate | up].
def _gate_method(owner):
    def run(settings, gate_up):
        return owner._apply_gate(types.SimpleNamespace(**settings), gate_up)

    return run


def _gpt_oss(settings, gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    interleaved = torch.stack([gate, up], dim=-1).flatten(-2)
    return _gate_method(GptOssExperts)(settings, interleaved)


def _softcap(settings, gate_up):
    config = types.SimpleNamespace(
        mlp_gate_softcap=settings["gate"], mlp_up_softcap=settings["up"],
        hidden_act="silu",
    )  # fmt: skip
    gate, up = gate_up.chunk(2, dim=-1)
    return Inkling2SoftcappedSwiGLU(config)(gate, up)


CASES = {
    "gpt-oss": (
        Activation(alpha=1.702, beta=1.0, limit=7.0),
        _gpt_oss, {"alpha": 1.702, "limit": 7.0},
    ),
    "gpt-oss small limit": (
        Activation(alpha=1.702, beta=1.0, limit=0.5),
        _gpt_oss, {"alpha": 1.702, "limit": 0.5},
    ),
    "deepseek-v4": (
        Activation(limit=10.0),
        _gate_method(DeepseekV4Experts), {"act_fn": F.silu, "limit": 10.0},
    ),
    "minimax-m3": (
        Activation(alpha=1.702, beta=1.0, limit=7.0),
        _gate_method(MiniMaxM3VLExperts), {"swiglu_alpha": 1.702, "swiglu_limit": 7.0},
    ),
    "step-3.5": (
        Activation(limit=1.0, clamp="after"),
        _gate_method(Step3p7Experts), {"act_fn": F.silu, "limit": 1.0},
    ),
    "softcap": (
        Activation("softcap", gate_cap=4.0, up_cap=25.0),
        _softcap, {"gate": 4.0, "up": 25.0},
    ),
    "geglu-tanh": (
        Activation("geglu_tanh"),
        lambda _, g: F.gelu(g.chunk(2, -1)[0], approximate="tanh") * g.chunk(2, -1)[1],
        {},
    ),
    "geglu-erf": (
        Activation("geglu_erf"),
        lambda _, g: F.gelu(g.chunk(2, -1)[0]) * g.chunk(2, -1)[1], {},
    ),
    "relu2": (Activation("relu2"), lambda _, u: F.relu(u) ** 2, {}),
    "silu": (Activation("silu"), lambda _, u: F.silu(u), {}),
    "gelu": (Activation("gelu_erf"), lambda _, u: F.gelu(u), {}),
}  # fmt: skip


def _inputs(dtype):
    """Ordinary, heavy-tailed, tiny, saturated and special values."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(64, 128, generator=generator) * torch.logspace(-6, 2, 64)[:, None]
    edges = torch.tensor(
        [0.0, -0.0, 0.5, -0.5, 1.0, 7.0, -7.0, 10.0, 88.0, -88.0, 200.0]
    )
    x[:, : len(edges)] = edges
    x[:, 64 : 64 + len(edges)] = edges.flip(0)
    return x.to(dtype)


#: torch's vectorised erf on CPUs is formula 7.1.26 of Abramowitz and Stegun, good to
#: 1.5e-7; its coefficients sum to 4.5 in magnitude, each rounded at most 8 times.
TORCH_CPU = Numerics(
    erf=Elementary(2.0**-23, 1.5e-7 + 4.5 * 8 * 2.0**-24, landmarks=False)
)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_activate_contains_the_released_module(name, dtype):
    activation, peer, settings = CASES[name]
    # Inkling's module computes in float32 whatever it is given.
    wide = dtype == torch.float64 and name != "softcap"
    numerics = PRESETS["reference"] if wide else TORCH_CPU
    x = _inputs(dtype)
    tap = activate(bounds.exactly(x.double()), activation, numerics)
    got = peer(settings, x).double()
    assert got.shape == tap.value.shape
    assert torch.isfinite(got).all()
    worst = 0 if tap.worst is None else tap.worst
    excess = (got - tap.value).abs() - worst
    at = excess.argmax()
    assert (excess <= 0).all(), (got.reshape(-1)[at], tap.value.reshape(-1)[at])


@pytest.mark.parametrize("name", ["gpt-oss", "deepseek-v4", "step-3.5", "geglu-erf"])
def test_activate_in_bf16_contains_the_released_module(name):
    activation, peer, settings = CASES[name]
    x = _inputs(torch.bfloat16)
    tap = activate(
        bounds.exactly(x.double()), activation, TORCH_CPU.but(activation="bf16")
    )
    got = peer(settings, x).double()
    assert ((got - tap.value).abs() <= tap.worst).all()


def test_activate_takes_per_expert_parameters_over_its_own():
    x = _inputs(torch.float64)
    rows = torch.arange(len(x))
    alpha, beta, limit = (
        1.0 + rows % 3,
        rows % 2 * 1.0,
        torch.where(rows % 5 == 0, 0, 2.0),
    )
    tap = activate(
        bounds.exactly(x), Activation(alpha=9.0, beta=9.0, limit=9.0),
        PRESETS["reference"], alpha=alpha, beta=beta, limit=limit,
    )  # fmt: skip
    for row in range(len(x)):
        own = Activation(
            alpha=float(alpha[row]), beta=float(beta[row]), limit=float(limit[row])
        )
        one = activate(bounds.exactly(x[row : row + 1]), own, PRESETS["reference"])
        assert torch.equal(one.value[0], tap.value[row])


def test_activate_passes_nan_on():
    x = torch.zeros(1, 4, dtype=torch.float64)
    x[0, 0] = float("nan")
    tap = activate(bounds.exactly(x), Activation(limit=7.0), PRESETS["reference"])
    assert tap.value.isnan().tolist() == [[True, False]]
    x = torch.tensor([[1.0, float("nan")]], dtype=torch.float64)
    tap = activate(bounds.exactly(x), Activation(limit=7.0), PRESETS["reference"])
    assert tap.value.isnan().all()


def test_activate_refuses_odd_columns_and_wrong_overrides():
    x = bounds.exactly(torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="3 columns cannot hold a gate and an up half"):
        activate(x, Activation(), Numerics())
    with pytest.raises(
        ValueError, match=r"alpha has shape \(3,\); give one value for each"
    ):
        activate(x, Activation(), Numerics(), alpha=torch.ones(3))

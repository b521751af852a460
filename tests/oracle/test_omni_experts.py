"""One-neuron experts against autograd and float32 kernels."""

from __future__ import annotations

import pytest
import torch

from oracle.numerics import PRESETS, Numerics
from oracle.omni import omni_experts, omni_experts_backward
from oracle.trace import Tap

REFERENCE = PRESETS["reference"]
T, K, E, H = 11, 5, 49, 24
Tensors = dict[str, torch.Tensor]


def draw(dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    ids = torch.randint(0, E, (T, K), generator=generator)
    ids[0, 1] = ids[0, 0]
    return {
        "x": normal(T, H),
        "ids": ids,
        "weights": normal(T, K),
        "up": normal(E, H),
        "down": normal(E, H),
    }


def by_gathering(
    x: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
) -> torch.Tensor:
    """torch's own operations, for autograd to differentiate."""
    s = torch.einsum("th,tkh->tk", x, up[ids])
    a = torch.nn.functional.silu(s) * weights
    return torch.einsum("tk,tkh->th", a, down[ids])


def assert_within(tap: Tap, got: torch.Tensor) -> None:
    assert tap.worst is not None
    away = (got.double() - tap.value).abs()
    assert bool((away <= tap.worst).all()), float((away - tap.worst).max())


def test_omni_experts_equal_gathering() -> None:
    case = draw()
    got = omni_experts(**case, numerics=REFERENCE)
    torch.testing.assert_close(got.value, by_gathering(**case), rtol=1e-13, atol=1e-13)


def test_omni_experts_backward_equals_autograd() -> None:
    case = draw()
    leaves = {n: t.requires_grad_() for n, t in case.items() if n != "ids"}
    d_out = draw(seed=1)["x"]
    by_gathering(**case).backward(d_out)
    detached = {name: tensor.detach() for name, tensor in case.items()}
    got = omni_experts_backward(d_out, **detached, numerics=REFERENCE)
    for name, leaf in leaves.items():
        torch.testing.assert_close(
            getattr(got, name).value, leaf.grad, rtol=1e-13, atol=1e-13
        )


def test_omni_experts_pass_gradcheck() -> None:
    ids = torch.tensor([[0, 3], [2, 2]])

    class Experts(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weights, up, down):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(x, ids, weights, up, down)
            return omni_experts(x, ids, weights, up, down, REFERENCE).value

        @staticmethod
        def backward(ctx, d_out):  # type: ignore[no-untyped-def]
            found = omni_experts_backward(d_out, *ctx.saved_tensors, REFERENCE)
            return found.x.value, found.weights.value, found.up.value, found.down.value

    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((2, 3), (2, 2), (4, 3), (4, 3))
    ]
    assert torch.autograd.gradcheck(Experts.apply, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_omni_experts_float32_kernels_lie_within_worst_case(dtype: torch.dtype) -> None:
    """Products summed in two orders in float32; rounded once at the end."""
    case = draw(dtype)
    tap = omni_experts(**case, numerics=Numerics(intermediate="fp32"))
    wide = {n: t if n == "ids" else t.float() for n, t in case.items()}
    assert_within(tap, by_gathering(**wide).to(dtype))
    rows = wide["up"][case["ids"]]
    s = torch.zeros(T, K)
    for h in reversed(range(H)):
        s = s + wide["x"][:, None, h] * rows[..., h]
    a = s / (1 + torch.exp(-s)) * wide["weights"]
    y = torch.zeros(T, H)
    for j in reversed(range(K)):
        y = y + a[:, j, None] * wide["down"][case["ids"][:, j]]
    assert_within(tap, y.to(dtype))


def test_omni_experts_bf16_steps_lie_within_their_declaration() -> None:
    """As omni-moe's tail kernel: products, a and a V in bf16, added up in bf16."""
    case = draw(torch.bfloat16)
    x, ids, weights, up, down = case.values()
    declared = Numerics(intermediate="bf16", weighted="bf16", combine="bf16")
    tap = omni_experts(**case, numerics=declared, product="bf16")
    s = (x[:, None, :] * up[ids]).float().sum(-1)
    a = (torch.nn.functional.silu(s) * weights.float()).bfloat16()
    y = torch.zeros(T, H, dtype=torch.bfloat16)
    for j in range(K):
        y = y + a[:, j, None] * down[ids[:, j]]
    assert_within(tap, y)
    exact_products = omni_experts(**case, numerics=declared)
    assert not torch.equal(exact_products.value, tap.value)


def test_omni_experts_backward_float32_kernels_lie_within_worst_case() -> None:
    case = draw(torch.float32)
    leaves = {n: t.requires_grad_() for n, t in case.items() if n != "ids"}
    d_out = draw(torch.float32, seed=1)["x"]
    by_gathering(**case).backward(d_out)
    detached = {name: tensor.detach() for name, tensor in case.items()}
    found = omni_experts_backward(d_out, **detached)
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        assert_within(getattr(found, name), leaf.grad)


def test_omni_experts_empty_slots_add_nothing() -> None:
    case = draw()
    kept = omni_experts(**{**case, "weights": case["weights"].clone()})
    case["ids"][3] = -1
    case["weights"][3] = torch.nan
    tap = omni_experts(**case)
    assert tap.value[3].eq(0).all()
    assert tap.worst is not None
    assert tap.worst[3].eq(0).all()
    assert torch.equal(tap.value[4:], kept.value[4:])
    found = omni_experts_backward(case["x"], **case)
    assert found.weights.value[3].eq(0).all()
    assert found.x.value[3].eq(0).all()
    for gradient in found:
        assert gradient.value.isfinite().all()


def test_omni_experts_of_small_integers_are_exact() -> None:
    """Gates far out: silu(s) = s, so that every sum is a sum of integers."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 3, (3, 8), generator=generator).float()
    up = 8 * torch.randint(1, 4, (9, 8), generator=generator).float()
    down = torch.randint(-3, 4, (9, 8), generator=generator).float()
    ids = torch.tensor([[0, 8], [3, 3], [7, 1]])
    weights = torch.full((3, 2), 0.5)
    tap = omni_experts(x, ids, weights, up, down, Numerics(intermediate="fp32"))
    assert tap.exact
    s = torch.einsum("th,tkh->tk", x, up[ids])
    want = torch.einsum("tk,tkh->th", s * 0.5, down[ids])
    assert torch.equal(tap.value, want.double())


def test_omni_experts_without_tokens() -> None:
    case = draw()
    empty = {n: t if n in ("up", "down") else t[:0] for n, t in case.items()}
    assert omni_experts(**empty).value.shape == (0, H)
    found = omni_experts_backward(empty["x"], **empty)
    assert found.up.value.eq(0).all()
    assert found.weights.value.shape == (0, K)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"x": torch.zeros(T, H + 1)},
            ValueError,
            rf"x has shape .*; give \({T}, {H}\)",
        ),
        ({"weights": torch.zeros(T, 1)}, ValueError, "weights has shape"),
        ({"down": torch.zeros(E, 1)}, ValueError, "down has shape"),
        ({"up": torch.zeros(E)}, ValueError, r"up has shape \(49,\); give \[E, H\]"),
        ({"ids": torch.zeros(T, K)}, TypeError, "ids are torch.float32"),
        ({"ids": torch.full((T, K), E)}, ValueError, r"id 49 lies outside -1\.\.48"),
        ({"ids": torch.full((T, K), -2)}, ValueError, r"id -2 lies outside -1\.\.48"),
        ({"x": torch.zeros(T, H).int()}, TypeError, "a tensor is torch.int32"),
    ],
)
def test_omni_experts_refuse(
    changes: Tensors, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        omni_experts(**{**draw(), **changes})

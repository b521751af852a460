"""omni-moe's product-key router, with its gradients; ``refmoe.dropin:omni`` as a port.

The port's backward is that of the autograd function, asked for by autograd.
"""

from __future__ import annotations

from operator import index
from typing import Any

import torch

from oracle.numerics import Numerics
from oracle.spec import Layer
from refmoe.dropin.callers import check_axes
from refmoe.kernels.launchers import omni
from refmoe.kernels.launchers.formats import TYPES
from refmoe.kernels.port import numerics
from refmoe.supports import Supports

__all__ = [
    "OmniRouter", "batch_invariant", "declares", "deterministic", "device",
    "graph_safe", "name", "numerics", "omni_route", "omni_route_backward", "supports",
    "triton_omni_router_func",
]  # fmt: skip

name, device = "refmoe.dropin:omni", "cuda"
deterministic = batch_invariant = True
graph_safe = ("omni_route",)
supports = Supports(dtypes=("bf16", "fp16", "fp32"))


class OmniRouter(torch.autograd.Function):
    """The top sums of one logit from each half, as an autograd function."""

    @staticmethod
    def forward(
        ctx: Any,
        router_logits_x: torch.Tensor,
        router_logits_y: torch.Tensor,
        num_expert_sqrt: int,
        num_experts_per_token: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of the logits' type, in which the sums are rounded, and ids i32."""
        scores, indices = omni.omni_route(
            router_logits_x.contiguous(), router_logits_y.contiguous(),
            num_experts_per_token, sum_type=TYPES[router_logits_x.dtype],
        )  # fmt: skip
        ctx.save_for_backward(indices)
        ctx.mark_non_differentiable(indices)
        ctx.side = num_expert_sqrt
        return scores, indices

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Gradients of both logits [T, n]; none of the ids."""
        (indices,) = ctx.saved_tensors
        d_scores = gradients[0].contiguous()
        d_x, d_y = omni.omni_route_backward(d_scores, indices, ctx.side)
        return d_x, d_y, None, None


def triton_omni_router_func(
    router_logits_x: torch.Tensor,
    router_logits_y: torch.Tensor,
    num_expert_sqrt: int,
    num_experts_per_token: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and indices i * n + j of the k largest router_logits_x[i] + ..._y[j].

    Shapes: router_logits: [T, n], n = num_expert_sqrt -> [T, k], i32[T, k]

    Raises ValueError where the logits are not n wide or k is none of 1..n^2, TypeError
    for other types.
    """
    for name, logits in (("x", router_logits_x), ("y", router_logits_y)):
        check_axes("triton_omni_router_func", 2, **{f"router_logits_{name}": logits})
        if logits.dtype not in TYPES:
            raise TypeError(
                f"triton_omni_router_func: router_logits_{name} is {logits.dtype}; "
                f"convert it to one of {', '.join(map(str, TYPES))}"
            )
        if logits.shape[-1] != num_expert_sqrt:
            raise ValueError(
                f"triton_omni_router_func: router_logits_{name} has "
                f"{logits.shape[-1]} columns; num_expert_sqrt={num_expert_sqrt} needs "
                "that many"
            )
    most = num_expert_sqrt**2
    try:
        num_experts_per_token = index(num_experts_per_token)
    except TypeError:
        raise TypeError(
            f"triton_omni_router_func: num_experts_per_token={num_experts_per_token!r} "
            f"is no whole number; give an int in 1..{most}"
        ) from None
    if not 1 <= num_experts_per_token <= most:
        raise ValueError(
            f"triton_omni_router_func: num_experts_per_token={num_experts_per_token} "
            f"lies outside 1..{most}, the number of experts; give one of those"
        )
    found: tuple[torch.Tensor, torch.Tensor] = OmniRouter.apply(  # type: ignore[no-untyped-call]
        router_logits_x, router_logits_y, num_expert_sqrt, num_experts_per_token
    )
    return found


def declares(layer: Layer) -> tuple[Layer, Numerics]:
    """The layer as it is; sums of logits are rounded to their type."""
    return layer, numerics.but(router=layer.dtype)


def omni_route(
    logits_x: torch.Tensor, logits_y: torch.Tensor, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op `omni_route`."""
    return triton_omni_router_func(logits_x, logits_y, logits_x.shape[1], top_k)


class _Chosen(OmniRouter):
    """The router behind ids that were chosen elsewhere, for its backward alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor, side: int, ids: Any) -> Any:
        """Scores that nobody reads."""
        ctx.save_for_backward(ids)
        ctx.side = side
        return x.new_empty(ids.shape)


def omni_route_backward(
    d_scores: torch.Tensor, ids: torch.Tensor, n: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op `omni_route_backward`, through autograd."""
    with torch.enable_grad():
        x, y = (d_scores.new_empty((len(ids), n), requires_grad=True) for _ in "xy")
        scores = _Chosen.apply(x, y, n, ids.int().contiguous())  # type: ignore[no-untyped-call]
        d_x, d_y = torch.autograd.grad(scores, (x, y), d_scores)
    return d_x, d_y

"""omni-moe's product-key router, with its gradients."""

from __future__ import annotations

from typing import Any

import torch

from refmoe.kernels.launchers.formats import TYPES
from refmoe.kernels.launchers.omni import omni_route, omni_route_backward


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
        scores, indices = omni_route(
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
        d_x, d_y = omni_route_backward(gradients[0].contiguous(), indices, ctx.side)
        return d_x, d_y, None, None


def triton_omni_router_func(
    router_logits_x: torch.Tensor,
    router_logits_y: torch.Tensor,
    num_expert_sqrt: int,
    num_experts_per_token: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and indices i * n + j of the k largest router_logits_x[i] + ..._y[j].

    Shapes: router_logits: [T, n], n = num_expert_sqrt -> [T, k], i32[T, k]

    Raises ValueError where the logits are not n wide.
    """
    for name, logits in (("x", router_logits_x), ("y", router_logits_y)):
        if logits.shape[-1] != num_expert_sqrt:
            raise ValueError(
                f"triton_omni_router_func: router_logits_{name} has "
                f"{logits.shape[-1]} columns; num_expert_sqrt={num_expert_sqrt} needs "
                "that many"
            )
    found: tuple[torch.Tensor, torch.Tensor] = OmniRouter.apply(  # type: ignore[no-untyped-call]
        router_logits_x, router_logits_y, num_expert_sqrt, num_experts_per_token
    )
    return found

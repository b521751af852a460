"""Routers, slots sorted by expert, and the router of sums: each tactic beside torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from oracle.params import Params
from oracle.spec import Layer, Routing
from refmoe.kernels import loader
from refmoe.kernels.bench.clock import Time, graph_time
from refmoe.kernels.launchers.omni import omni_route, tactics
from refmoe.kernels.launchers.permute import align, sort_slots
from refmoe.kernels.launchers.route import route_tokens

_V3 = Routing(
    "sigmoid", bias="selection", groups=8, top_groups=4, group_score="top2",
    renormalize="sum_plus_epsilon", epsilon=1e-20, scale=2.5,
)  # fmt: skip
_SUM = Routing(renormalize="sum")
#: Experts, k and rule of routers in use.
_ROUTERS = {
    "softmax E=128 k=4": (128, 4, _SUM),
    "softmax E=256 k=8": (256, 8, _SUM),
    "grouped sigmoid E=256 k=8": (256, 8, _V3),
    "sqrtsoftplus E=256 k=6": (
        256, 6, Routing("sqrtsoftplus", bias="selection", renormalize="sum", scale=1.5),
    ),
    "softmax E=512 k=10": (512, 10, _SUM),
}  # fmt: skip


def routers(device: torch.device) -> Iterator[Time]:
    """Routing, beside softmax and topk where that is the rule, and sorting slots."""
    for name, (experts, k, rule) in _ROUTERS.items():
        layer = Layer(8, 8, experts, k, routing=rule)
        bias = torch.randn(experts, device=device)
        own = Params(bias[:0], bias[:0], router_bias=bias)
        for tokens in (1, 64, 1024, 4096, 8192):
            sets = [torch.randn(tokens, experts, device=device) for _ in range(4)]
            spent = graph_time([partial(route_tokens, x, own, layer) for x in sets])
            peer = None
            if rule is _SUM:
                peer = graph_time([partial(_by_torch, x, k) for x in sets])
            target = "<= 10" if (experts, tokens) == (128, 4096) else ""
            yield Time(f"route {name} T={tokens}", spent, torch=peer, target=target)
    for experts, k in ((128, 4), (256, 8)):
        for tokens in (1, 64, 1024, 8192):
            shape = (tokens, k)
            ids = [torch.randint(0, experts, shape, device=device) for _ in range(4)]
            what = f"E={experts} k={k} T={tokens}"
            spent = graph_time([partial(sort_slots, i, experts) for i in ids])
            yield Time(f"sort slots {what}", spent)
            spent = graph_time([partial(align, i, experts, 64) for i in ids])
            yield Time(f"align 64 {what}", spent)


def _by_torch(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    weights, ids = logits.softmax(1).topk(k)
    return ids, weights / weights.sum(1, keepdim=True)


def product_keys(device: torch.device) -> Iterator[Time]:
    """The router of sums under every tactic, beside all sums and their topk."""
    target = loader.target_for(device.index or 0)
    for n, k in ((128, 16), (256, 16), (256, 32), (256, 128)):
        for tokens in (1, 64, 1024, 8192):
            sets = [
                (torch.randn(tokens, n, device=device),
                 torch.randn(tokens, n, device=device)) for _ in range(4)
            ]  # fmt: skip
            peer = None
            if tokens <= 1024:
                peer = graph_time([partial(_all_sums, *s, k) for s in sets])
            aim = ">= 5x" if (n, k, tokens) == (256, 16, 1024) else ""
            for t in tactics(target):
                own = graph_time([partial(omni_route, *s, k, tactic=t) for s in sets])
                name = f"omni n={n} k={k} T={tokens} {t.warps}x{t.tokens}"
                yield Time(name, own, torch=peer, target=aim)


def _all_sums(x: torch.Tensor, y: torch.Tensor, k: int) -> object:
    return (x[:, :, None] + y[:, None, :]).flatten(1).topk(k)

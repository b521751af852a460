"""Which experts the tokens of a case go to."""

from __future__ import annotations

import torch

from oracle.spec import Layer
from refmoe.case import Case
from refmoe.generator import Stream


def ids(case: Case, layer: Layer) -> torch.Tensor:
    """i64[T, k] distinct experts of each token, under the case's load.

    uniform: any; hot: one expert takes part in every token; half: a random half of the
    experts gets nothing; high: only the last quarter is chosen. Every load leaves at
    least k experts, and respects the groups that the router keeps.
    """
    choices, k = layer.routed_choices, layer.top_k
    order = Stream(case.seed, "load").permutations(1, choices)[0]
    allowed = {
        "uniform": torch.arange(choices),
        "hot": torch.arange(choices),
        "half": order[: max(choices // 2, k)].sort().values,
        "high": torch.arange(choices - max(choices // 4, k), choices),
    }[case.load]
    picked = _from_groups(case, layer, allowed)
    if case.load == "hot":
        hot = order[0]
        absent = (picked != hot).all(1)
        picked[absent, 0] = hot
    return picked


def _from_groups(case: Case, layer: Layer, allowed: torch.Tensor) -> torch.Tensor:
    """k of the `allowed` for each token, from at most `top_groups` groups."""
    stream, k = Stream(case.seed, "ids"), layer.top_k
    keys = stream.permutations(case.T, layer.routed_choices).argsort(1)
    groups, kept = layer.routing.groups, layer.routing.top_groups
    banned = torch.ones(layer.routed_choices, dtype=torch.bool)
    banned[allowed] = False
    late = layer.routed_choices * banned.long().expand(case.T, -1)
    if groups > 1:
        size = layer.experts // groups
        rank = stream.substream("groups").permutations(case.T, groups)
        dropped = (rank >= kept).repeat_interleave(size, dim=1)
        late = late + 2 * layer.routed_choices * dropped.long()
    return (keys + late).argsort(1)[:, :k].contiguous()

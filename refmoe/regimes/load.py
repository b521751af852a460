"""Which experts the tokens of a case go to."""

from __future__ import annotations

import torch

from oracle.spec import Layer
from refmoe.case import Case
from refmoe.generator import Stream


def ids(case: Case, layer: Layer) -> torch.Tensor:
    """i64[T, k] experts of each token, under the case's load; -1 for none.

    uniform: any; hot: one expert takes part in every token; half: a random half of the
    experts gets nothing; high: only the last quarter is chosen. Every load leaves at
    least k experts, and respects the groups that the router keeps.

    The experts of a token are distinct, unless `slots` is ``twice``: then every second
    token has its first expert in its last slot too. ``some``: a third of the slots has
    no expert, and neither has any slot of every third token.
    """
    choices, k = layer.routed_choices, layer.top_k
    order = Stream(case.seed, "load").permutations(1, choices)[0]
    allowed = {
        "uniform": torch.arange(choices),
        "hot": torch.arange(choices),
        "half": order[: max(choices // 2, k)].sort().values,
        "high": torch.arange(choices - max(choices // 4, k), choices),
    }[case.load]
    hot = int(order[0]) if case.load == "hot" else None
    picked = _from_groups(case, layer, allowed, hot)
    if hot is not None:
        absent = (picked != hot).all(1)
        picked[absent, 0] = hot
    return _slotted(picked, case)


def _slotted(picked: torch.Tensor, case: Case) -> torch.Tensor:
    """The ids after `slots`."""
    if case.slots == "twice":
        picked[::2, -1] = picked[::2, 0]
    elif case.slots == "some":
        gone = Stream(case.seed, "slots").integers(picked.shape, 0, 2) == 0
        gone[1::3] = True
        gone[:1, -1:] = True
        picked = picked.masked_fill(gone, -1)
    return picked


def _from_groups(
    case: Case, layer: Layer, allowed: torch.Tensor, hot: int | None
) -> torch.Tensor:
    """k of the `allowed` for each token, from at most `top_groups` groups.

    The group of the `hot` expert is one of them.
    """
    stream, k = Stream(case.seed, "ids"), layer.top_k
    keys = stream.permutations(case.T, layer.routed_choices).argsort(1)
    groups, kept = layer.routing.groups, layer.routing.top_groups
    banned = torch.ones(layer.routed_choices, dtype=torch.bool)
    banned[allowed] = False
    late = layer.routed_choices * banned.long().expand(case.T, -1)
    if groups > 1:
        size = layer.experts // groups
        rank = stream.substream("groups").permutations(case.T, groups)
        if hot is not None:
            # The hot expert's group changes places with the first.
            rank = rank.where(rank != 0, rank[:, hot // size, None])
            rank[:, hot // size] = 0
        dropped = (rank >= kept).repeat_interleave(size, dim=1)
        late = late + 2 * layer.routed_choices * dropped.long()
    return (keys + late).argsort(1)[:, :k].contiguous()

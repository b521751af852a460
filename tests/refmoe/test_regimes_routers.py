"""What regimes draw for routers reaches what it is for."""

from __future__ import annotations

import torch

from refmoe import reference
from refmoe.parse import parse
from refmoe.problem import build


def test_ties_of_product_keys_have_unlike_parts_in_every_other_token() -> None:
    problem = build(parse("omni_route T=6 E=400 k=33 regime=ties"))
    x = problem.inputs["logits_x"].double()[:, :, None]
    y = problem.inputs["logits_y"].double()[:, None, :]
    for token, sums in enumerate((x + y).flatten(1)):
        cut = sums.sort(descending=True).values[32]
        larger = x.expand(-1, 20, 20).flatten(1)[token][sums == cut]
        parts = larger.unique()
        assert len(parts) == (2 if token % 2 else 1)
        if token % 2:
            # Neither all of the larger x first nor all of them last.
            assert not torch.equal(larger, larger.sort().values)
            assert not torch.equal(larger, larger.sort(descending=True).values)


def test_token_ids_come_in_both_index_types() -> None:
    line = "route model=deepseek-v4-flash-hash T=5 E=16 k=6 seed="
    found = [build(parse(f"{line}{n}")).inputs["token_ids"].dtype for n in range(2)]
    assert found == [torch.int64, torch.int32]


def test_saturated_tells_sums_that_truncate_from_those_that_round() -> None:
    problem = build(parse("route T=5 E=264 k=2 regime=saturated"))
    weights = reference.trace(problem)["weights"]
    parts = problem.inputs["logits"][4].exp().sort(descending=True).values
    rounded = parts.cumsum(0)[-1]
    # Beside 1 an ulp is 2^-23: whoever truncates keeps what is larger.
    truncated = parts[parts > 2.0**-23].sum()
    off = (1.0 / torch.stack((rounded, truncated)) - weights.value[4, 0]).abs()
    assert off[0] < weights.worst[4, 0] < off[1]

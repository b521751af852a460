"""The ties regime reaches what it is for; index inputs come in both types."""

from __future__ import annotations

import torch

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

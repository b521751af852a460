"""Product keys and experts of one neuron."""

from __future__ import annotations

from functools import reduce

import torch

from oracle import bounds
from oracle.omni import omni_experts
from oracle.trace import Tap
from refmoe.diagnose import changes
from refmoe.diagnose.hypothesis import Alteration, Hypothesis, Place

_ROUTE, _BACKWARD = ("omni_route",), ("omni_route_backward",)


def _sums(name: str, about: str, change: object) -> Hypothesis:
    """Other sums of the keys [T, n, n], before they are compared."""

    def chosen(place: Place) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = place.inputs["logits_x"], place.inputs["logits_y"]
        sums = x.float()[:, :, None] + y.float()[:, None, :]
        sums = change(sums).flatten(1)  # type: ignore[operator]
        order = torch.argsort(sums.double(), dim=1, descending=True, stable=True)
        ids = order[:, : place.layer.top_k]
        return sums.gather(1, ids).double(), ids

    def part(index: int) -> Alteration:
        return lambda place, tap: Tap(chosen(place)[index].to(tap.value.dtype))

    return Hypothesis(
        name, about, alter={"scores": part(0), "ids": part(1)}, ops=_ROUTE
    )


def _overwritten(side: str) -> Alteration:
    """Of several slots with one key the last counts alone."""

    def altered(place: Place, tap: Tap) -> Tap:
        n, ids = place.inputs["n"], place.inputs["ids"].long()
        keys = ids // n if side == "d_x" else ids % n
        given = place.inputs["d_scores"].double()
        found = torch.zeros_like(tap.value, dtype=torch.float64)
        for slot in range(ids.shape[1]):
            found.scatter_(1, keys[:, slot : slot + 1], given[:, slot : slot + 1])
        return Tap(found, torch.zeros_like(found))

    return altered


def _weighted_inside(place: Place, tap: Tap) -> Tap:
    """y[t] = sum over j of silu(weight x . up) down; weight x is exact in float64."""
    inputs, own = place.inputs, place.problem.numerics
    parts = [
        omni_experts(
            inputs["x"].double() * weight,
            ids,
            torch.ones_like(weight),
            inputs["up"],
            inputs["down"],
            own.but(output="fp64"),
        )
        for ids, weight in zip(
            inputs["ids"].split(1, 1), inputs["weights"].split(1, 1), strict=True
        )
    ]
    return reduce(lambda a, b: bounds.add(a, b, own.combine, own), parts)


HYPOTHESES = (
    _sums(
        "omni_sums_in_bf16", "sums are rounded to bf16 before they are compared",
        lambda sums: sums.bfloat16(),
    ),
    Hypothesis(
        "nan_keys_are_zero", "a NaN among the keys counts as 0",
        changes.inputs("logits_x", "logits_y")(lambda keys: keys.nan_to_num(0.0)),
        ops=_ROUTE,
    ),
    Hypothesis(
        "gradient_overwritten",
        "slots of one key overwrite each other in place of adding up",
        alter={side: _overwritten(side) for side in ("d_x", "d_y")},
        ops=_BACKWARD,
    ),
    Hypothesis(
        "weight_inside_the_activation",
        "the routing weight multiplies x, through the activation",
        alter={"y": _weighted_inside},
        ops=("omni_experts",),
    ),
)  # fmt: skip

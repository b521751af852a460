"""Product keys and experts of one neuron."""

from __future__ import annotations

import torch

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
    """y[t] = sum over j of silu(weight x . up) down."""
    inputs, numerics = place.inputs, place.problem.numerics.but(output="fp64")
    ids, weights = inputs["ids"], inputs["weights"].double()
    total, worst = torch.zeros(()), torch.zeros(())
    for slot in range(ids.shape[1]):
        one = slice(slot, slot + 1)
        x = inputs["x"].double() * weights[:, one]
        ones = torch.ones_like(inputs["weights"][:, one])
        part = omni_experts(
            x, ids[:, one], ones, inputs["up"], inputs["down"], numerics
        )
        total = total + part.value
        worst = worst + (0.0 if part.worst is None else part.worst)
    # Rounding of weight times x, of the sums and of the result.
    return Tap(total, worst + total.abs() * 2.0**-7)


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

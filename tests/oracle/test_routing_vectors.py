"""Vectors of routing: our answer, and who answers otherwise."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from oracle.numerics import Numerics
from oracle.omni import omni_route, omni_route_backward
from oracle.params import Params
from oracle.routing import Routed, route
from oracle.spec import Layer, Routing
from oracle.vectors import Vector, load

VECTORS = [*load("routing"), *load("omni")]
ROUTING = [v for v in VECTORS if v.operation == "route"]
Tensors = Mapping[str, torch.Tensor]


def routed_of(vector: Vector) -> Routed:
    arguments, bias = vector.arguments, vector.inputs.get("router_bias")
    logits = vector.inputs["logits"].view(arguments["tokens"], -1)
    layer = Layer(
        8, 8, logits.shape[1], arguments["top_k"], Routing(**arguments["routing"])
    )
    params = Params(torch.zeros(0), torch.zeros(0), router_bias=bias)
    return route(logits, layer, params, Numerics())


def answer(vector: Vector) -> Tensors:
    """What the oracle makes of a vector, flat."""
    if vector.operation == "route":
        routed = routed_of(vector)
        return {"ids": routed.ids, "weights": routed.weights.value}
    n, k = vector.arguments["n"], vector.arguments["top_k"]
    if vector.operation == "omni_route_backward":
        ids = vector.inputs["ids"].view(-1, k)
        d_x, d_y = omni_route_backward(vector.inputs["d_scores"].view(-1, k), ids, n)
        return {"d_x": d_x.value, "d_y": d_y.value}
    x, y = (vector.inputs[name].view(-1, n) for name in ("logits_x", "logits_y"))
    sum_type = vector.arguments.get("sum_type", "fp32")
    return omni_route(x, y, k, sum_type=sum_type)._asdict()


def same(got: torch.Tensor, want: torch.Tensor) -> bool:
    return torch.equal(
        got.flatten().double().nan_to_num(nan=-7.0), want.double().nan_to_num(nan=-7.0)
    )


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_routing_vector_expected_answer(vector: Vector) -> None:
    got = answer(vector)
    for name, want in vector.expected.items():
        assert same(got[name], want), (got[name], want)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_routing_vector_peers_answer_otherwise(vector: Vector) -> None:
    for got in vector.peers.values():
        assert got.keys() == vector.expected.keys()
        assert not all(same(got[n], want) for n, want in vector.expected.items())


@pytest.mark.parametrize(
    "vector", [v for v in ROUTING if v.who_is_right == "oracle"], ids=lambda v: v.id
)
def test_routing_vector_mistakes_lie_outside_the_bounds(vector: Vector) -> None:
    """The admissible set or the weights' bounds catch each recorded mistake."""
    routed = routed_of(vector)
    for got in vector.peers.values():
        ids = got["ids"].view(routed.ids.shape).long()
        if not bool(routed.admissible.contains(ids).all()):
            continue
        expected = routed.weights_for(ids)
        away = (got["weights"].view(ids.shape) - expected.value).abs()
        worst = torch.zeros(()) if expected.worst is None else expected.worst
        assert bool((away > worst).any())


def test_routing_vectors_of_policies_are_all_admitted() -> None:
    """Two answers to saturated scores are right; ties are free only if declared."""
    found = {v.id: v for v in ROUTING if v.who_is_right == "policy" and v.peers}
    saturated = found["saturated-sigmoids"]
    other = saturated.peers["fp32 scores"]["ids"].view(1, 1)
    assert bool(routed_of(saturated).admissible.contains(other))
    tied = found["ties-all-equal"]
    torchs = tied.peers["torch"]["ids"].view(1, 3)
    assert not bool(routed_of(tied).admissible.contains(torchs))

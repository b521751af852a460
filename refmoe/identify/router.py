"""A port's router, seen through `route` or through a layer whose experts say who they
are: expert e returns 1 in column e."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from oracle.spec import Layer, Routing
from refmoe.case import Case, Value
from refmoe.identify.box import Box, Silent, without_weights
from refmoe.identify.wires import PIECES, Wires, wired_with

EXPERTS = 16
TOP_K = 4


@dataclass(frozen=True)
class Router:
    """The op that shows a port's choice, on a layer it supports."""

    box: Box
    case: Case

    @cached_property
    def layer(self) -> Layer:
        return self.case.layer

    @cached_property
    def routing(self) -> Routing:
        """What the port says it computes for the layer."""
        return self.box.port.definition(self.layer)[0].routing

    @property
    def exact(self) -> bool:
        """Whether weights come as they are, rather than through a layer's output."""
        return self.case.op == "route"

    def __call__(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Dense weights f64[T, E], and which experts are chosen, bool[T, E].

        Shapes: logits f32[T, E]
        """
        case = self.case.but(T=len(logits))
        layer = self.layer
        if self.exact:
            found = self.box.call(case, without_weights(layer), {"logits": logits})
            if not {"ids", "weights"} <= set(found):
                raise Silent("route: ids and weights did not both come")
            ids, weights = found["ids"].long(), found["weights"].double()
            dense = torch.zeros(logits.shape, dtype=torch.float64)
            dense.scatter_(1, ids, weights)
            return dense, torch.zeros_like(dense).scatter(1, ids, 1.0).bool()
        wired = Wires(self.box, case)
        pieces = torch.zeros(layer.experts, layer.hidden, PIECES, dtype=torch.float64)
        expert = torch.arange(layer.experts)
        pieces[expert, expert, 0] = 1.0
        out = wired.run(wired.constants(pieces), logits=logits)
        dense = out[:, : layer.experts]
        return dense, dense != 0


def router(box: Box, changes: Mapping[str, Value] | None = None) -> Router:
    """The port's router on the first layer it supports, or on one with `changes`.

    Raises Silent if it has none, or selects otherwise than by top-k.
    """
    sizes = {"T": 2, "H": 64, "I": 64, "E": EXPERTS, "k": TOP_K}
    ops = [op for op in ("route", "moe") if op in box.port.ops]
    if not ops:
        raise Silent("the port has no router; it takes route or moe")

    def candidates() -> Iterator[Case]:
        for op in ops:
            for case in box.layers(op, **sizes):
                if changes:
                    both = {**dict(case.changes), **changes}
                    case = replace(case, changes=tuple(sorted(both.items())))
                yield case

    def trial(case: Case) -> None:
        layer = case.layer
        if layer.routing.method != "topk" or layer.logits_columns != layer.experts:
            raise Silent(f"{case.op}: experts are not chosen by top-k alone")
        if case.op == "moe":
            wired_with(box, case)
        Router(box, case)(torch.arange(32.0).reshape(2, EXPERTS) / 8.0)

    return Router(box, box.case(f"router {changes}", candidates(), trial))

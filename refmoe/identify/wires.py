"""A layer wired by hand, so that single numbers travel through its experts.

Every token is all ones, so GEMM1 hands on sums of its weights. A gate of 64 saturates:
act(64) = 64 in every type. So the hidden elements called constants hold 64, and GEMM2
turns them into any number that a few 16-bit pieces add up to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from oracle.formats import round_to
from oracle.params import Params
from oracle.spec import Layer
from refmoe.case import Case
from refmoe.identify.box import Box, Silent, blank, exactly
from refmoe.regimes.regime import TORCH

#: Hidden elements that hold the constant, one for each piece of a number.
PIECES = 6
CONSTANT = 64.0
_KINDS = ("swiglu", "geglu_tanh", "geglu_erf")


@dataclass(frozen=True)
class Wires:
    """The widest op of a port that computes experts, and how it is driven."""

    box: Box
    case: Case
    #: Types of the results that came so far.
    types: set[torch.dtype] = field(default_factory=set, compare=False)

    @cached_property
    def layer(self) -> Layer:
        return self.case.layer

    @property
    def probes(self) -> int:
        """Hidden elements that are free."""
        return self.layer.intermediate - PIECES

    @property
    def weighted(self) -> bool:
        """Whether weights are given, rather than made by a router."""
        return self.case.op == "experts"

    def run(
        self,
        down: torch.Tensor,
        *,
        x: torch.Tensor | None = None,
        gate: torch.Tensor | None = None,
        up: torch.Tensor | None = None,
        up_bias: torch.Tensor | None = None,
        down_bias: torch.Tensor | None = None,
        ids: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        shared: torch.Tensor | None = None,
        logits: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The layer's output f64[T, H] (of the layer's own type, or as declared).

        Shapes: x f64[H] of every token, ones by default; down f64[E, H, I]; gate and
        up f64[I - PIECES, H], rows of the free hidden elements of expert 0; up_bias
        f64[I - PIECES]; down_bias f64[E, H]; ids i64[T, k] and weights f64[T, k], by
        default every token the experts 0, 1 ... with weight 1; shared f64[H, PIECES],
        pieces of the shared expert; logits f32[T, E] in place of ids and weights.
        """
        layer, dtype = self.layer, self.layer.dtype
        h, i, e = layer.hidden, layer.intermediate, layer.experts
        beta = layer.activation.beta
        token = torch.ones(h, dtype=torch.float64) if x is None else x
        gate_up = torch.zeros(e, 2 * i, h, dtype=torch.float64)
        gate_up[:, :i, 0] = CONSTANT / token[0]
        gate_up[:, 2 * i - PIECES :, 0] = (1.0 - beta) / token[0]
        free = i - PIECES
        if gate is not None:
            gate_up[0, :free] = gate
        if up is not None:
            gate_up[0, i : i + free] = up
        params = blank(layer, exactly(gate_up, dtype), exactly(down, dtype))
        if up_bias is not None:
            bias = torch.zeros(e, 2 * i, dtype=torch.float64)
            bias[0, i : i + free] = up_bias
            params = replace(params, gate_up_bias=exactly(bias, dtype))
        if down_bias is not None:
            params = replace(params, down_bias=exactly(down_bias, dtype))
        if shared is not None:
            params = replace(params, **self._shared(shared))
        return self._call(token, params, ids, weights, logits)

    def _shared(self, pieces: torch.Tensor) -> dict[str, torch.Tensor]:
        layer, dtype = self.layer, self.layer.dtype
        assert layer.shared is not None
        width = layer.shared.intermediate
        gate_up = torch.zeros(2 * width, layer.hidden, dtype=torch.float64)
        gate_up[:width, 0] = CONSTANT
        gate_up[width:, 0] = 1.0 - layer.activation.beta
        down = torch.zeros(layer.hidden, width, dtype=torch.float64)
        down[:, :PIECES] = pieces
        return {
            "shared_gate_up": exactly(gate_up, dtype),
            "shared_down": exactly(down, dtype),
        }

    def _call(
        self,
        token: torch.Tensor,
        params: Params,
        ids: torch.Tensor | None,
        weights: torch.Tensor | None,
        logits: torch.Tensor | None,
    ) -> torch.Tensor:
        layer, case = self.layer, self.case
        if ids is None:
            ids = torch.arange(layer.top_k).expand(case.T, -1)
        case = case.but(T=len(ids))
        x = exactly(token.expand(len(ids), -1), layer.dtype)
        inputs: dict[str, torch.Tensor] = {"x": x}
        if logits is not None:
            inputs["logits"] = logits
        elif self.weighted:
            ones = torch.ones(ids.shape, dtype=torch.float64)
            given = ones if weights is None else weights
            inputs |= {"ids": ids.contiguous(), "weights": exactly(given, "fp32")}
        else:
            inputs["logits"] = chosen_logits(layer, ids)
        found = self.box.call(case, params, inputs)
        out = next(iter(found.values()))
        self.types.add(out.dtype)
        return out.double()

    @property
    def output(self) -> str:
        """The plain type of the results."""
        if not self.types:
            self.check()
        names = [name for name, dtype in TORCH.items() if self.types == {dtype}]
        return names[0] if names else self.layer.dtype

    def check(self) -> None:
        """Raise Silent unless a constant comes through."""
        layer = self.layer
        pieces = torch.zeros(layer.experts, layer.hidden, PIECES, dtype=torch.float64)
        pieces[0, :, 0] = 32.0
        out = self.run(self.constants(pieces))
        if not bool((out == 32.0 * found_weight(self.case)).all()):
            raise Silent(f"{self.case.op}: the layer does not hand a constant through")

    def constants(self, pieces: torch.Tensor) -> torch.Tensor:
        """`down` f64[E, H, I] that makes every expert return the sums of its pieces.

        Shapes: pieces f64[E, H, PIECES]
        """
        layer = self.layer
        down = torch.zeros(
            layer.experts, layer.hidden, layer.intermediate, dtype=torch.float64
        )
        down[:, :, layer.intermediate - PIECES :] = pieces / CONSTANT
        return down


def wires(
    box: Box, *, hidden: int = 64, intermediate: int = 64, experts: int = 8,
    shared: bool = False,
) -> Wires:  # fmt: skip
    """The port's experts or, for want of them or for a shared expert, its whole layer.

    Raises Silent if it computes no gated layer that could be wired.
    """
    sizes = {"T": 4, "H": hidden, "I": intermediate, "E": experts, "k": experts}
    wanted = ("moe",) if shared else ("experts", "moe")
    ops = [op for op in wanted if op in box.port.ops]
    if not ops:
        needed = "a whole layer (moe)" if shared else "experts or moe"
        raise Silent(f"the port has no op for it; it takes {needed}")

    def trial(case: Case) -> None:
        wired_with(box, case)

    def candidates() -> Iterator[Case]:
        for op in ops:
            for case in box.layers(op, **sizes):
                if not shared:
                    yield case
                elif case.model is None:
                    width = ("shared.intermediate", intermediate)
                    yield case.but(changes=tuple(sorted((*case.changes, width))))

    key = f"wires {hidden} {intermediate} {experts} {shared}"
    return Wires(box, box.case(key, candidates(), trial))


def wired_with(box: Box, case: Case) -> Wires:
    """The wired layer of `case`; raises Silent if constants do not come through."""
    layer = case.layer
    limit = layer.activation.limit or math.inf
    if layer.activation.kind not in _KINDS or limit < 2.0**20:
        raise Silent(f"{case.op}: no gate saturates under {layer.activation}")
    if layer.routing.method != "topk" or layer.weight_on == "input":
        raise Silent(f"{case.op}: the weights cannot be held at one number")
    found = Wires(box, case)
    found.check()
    return found


def found_weight(case: Case) -> float:
    """The weight that equally strong experts get, from the port's router or given."""
    if case.op == "experts":
        return 1.0
    routing, k = case.layer.routing, case.layer.top_k
    bare = routing.score == "sigmoid" and routing.renormalize == "none"
    return routing.scale * (1.0 if bare else 1.0 / k)


def chosen_logits(layer: Layer, ids: torch.Tensor) -> torch.Tensor:
    """fp32 logits under which the experts `ids` are chosen, all equally strong."""
    logits = torch.full((len(ids), layer.logits_columns), -200.0)
    return logits.scatter(1, ids, 40.0)


def pieces(values: torch.Tensor, count: int = PIECES) -> torch.Tensor:
    """Values as sums of `count` numbers of eight bits each, the largest first.

    Shapes: values f64[...] -> f64[..., count]
    """
    found, rest = [], values
    for _ in range(count):
        found.append(round_to(rest, "bf16"))
        rest = rest - found[-1]
    if bool(rest.any()):
        raise ValueError(f"pieces: {count} pieces of 8 bits do not make up the values")
    return torch.stack(found, -1)

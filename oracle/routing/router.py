"""From logits to ids and weights: one function for every routing method."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from oracle.numerics import Numerics
from oracle.params import Params
from oracle.routing.admissible import Admissible
from oracle.routing.checks import check, look_up
from oracle.routing.logits import transformed
from oracle.routing.scores import Arithmetic
from oracle.routing.selection import compares_logits, select
from oracle.routing.weights import Weigher, check_range
from oracle.spec import Layer
from oracle.trace import Tap

_REFERENCE = Numerics()


@dataclass(frozen=True, eq=False)
class Routed:
    """What a router hands on.

    Shapes:
        ids: i64[T, k], by falling key (from the table: in its order)
        weights: [T, k]     shared_weights: [T, shared logits] or None
        scores: [T, columns of the logits]; where logits are compared, those
    """

    ids: torch.Tensor
    weights: Tap
    scores: Tap
    admissible: Admissible
    shared_weights: Tap | None
    weigher: Weigher

    def weights_for(self, ids: torch.Tensor, rows: torch.Tensor | None = None) -> Tap:
        """The weights that another selection gets; see `weigh`."""
        return self.weigh(ids, rows)[0]

    def weigh(
        self, ids: torch.Tensor, rows: torch.Tensor | None = None
    ) -> tuple[Tap, Tap | None]:
        """Weights and shared weights under another selection, -1 for an empty slot.

        Shapes: ids: i[R, k]; rows: i64[R], the token of each (None: all in order)

        Raises ValueError if an id is out of range or the shapes do not fit.
        """
        check_range("weigh", ids, self.weigher.layer.routed_choices)
        shape = (len(self.ids) if rows is None else len(rows), self.ids.shape[1])
        if tuple(ids.shape) != shape:
            raise ValueError(
                f"weigh: ids have shape {tuple(ids.shape)}; give one of {shape}"
            )
        return self.weigher.weigh(ids.to(torch.int64), rows)


def route(
    logits: torch.Tensor,
    layer: Layer,
    params: Params,
    numerics: Numerics = _REFERENCE,
    *,
    token_ids: torch.Tensor | None = None,
) -> Routed:
    """Choose top_k experts for every token and weight them, as `layer.routing` says.

    Shapes: logits: f[T, layer.logits_columns]; token_ids: i[T], for hash routing only

    l is the logits scaled, capped and biased; s = score(l):

    * softmax e^l / sum e^l, sigmoid 1 / (1 + e^-l), sqrtsoftplus sqrt(log1p(e^l))
      (DeepSeek-V4), identity l;
    * ids are the top_k largest keys (see `Routing`), looked up in `Params.hash_table`,
      or sparsemixer's two rounds (`oracle.routing.sparsemixer`);
    * weights see `oracle.routing.weights.Weigher`.

    The last `shared_logits` columns cannot be chosen; their scores join the sum that
    renormalises and weight the shared experts (Inkling). Ids from E on are identity
    experts (LongCat).

    Ties go to the lowest index (`Numerics.ties`); experts with equal logits and biases
    tie exactly. -0 equals +0. Ids are top_k distinct indices in range for any bits:
    NaN keys come after -inf, by index, and are admissible at any place. Weights follow
    the formula, so that a NaN or a +inf under a softmax makes the row NaN, and a zero
    sum makes 0 / 0; where rounding may or may not make the sum zero their radius is
    infinite.

    With a 16-bit `numerics.router` the scores are rounded to that type. A bias on the
    logits is added in the router's type, one on the key in the wider of that type and
    its own.

    Raises TypeError or ValueError naming what does not fit: logits, token_ids, a
    missing bias, table or scale, a method that the layer's sizes do not allow.
    """
    check(logits, layer, params, token_ids)
    routing, arithmetic = layer.routing, Arithmetic(numerics)
    bias = params.router_bias if routing.bias != "none" else None
    moved = transformed(logits, routing, bias, arithmetic)
    scores = moved
    if not compares_logits(routing):
        scores = arithmetic.point(arithmetic.score(moved, routing.score))
    if routing.method == "hash":
        admissible = Admissible(look_up(layer, params, token_ids))
    else:
        admissible = select(logits[:, : layer.routed_choices], bias, layer, numerics)
    weigher = Weigher(moved, scores, layer, params, numerics)
    weights, shared = weigher.weigh(admissible.ids)
    return Routed(admissible.ids, weights, scores, admissible, shared, weigher)

"""The layer stage by stage: the modular form, which `oracle.moe.trace` composes.

Each stage is a method that computes its tap once, from the stages before it, or takes
it from `given`. Asking for a late stage pulls in only what it needs, so a stage given
from a port's own bytes stands in for everything before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from oracle import bounds
from oracle.activation import activate
from oracle.experts import combine, grouped_gemm, weighted_rows, with_identity
from oracle.formats import round_to
from oracle.numerics import Numerics
from oracle.operands import operand, spans_rows, taken
from oracle.params import Blocks, Params
from oracle.permutation import Permutation, permute
from oracle.routing import Routed, route
from oracle.shared import shared_expert, unweighted, with_shared
from oracle.spec import BlockFormat, Layer
from oracle.trace import Tap


@dataclass
class Stages:
    """One run over tokens x [T, H], of which `rows` are computed.

    See `oracle.moe.trace` for the fields. `taps` fills up as stages are asked for.
    """

    layer: Layer
    params: Params
    x: torch.Tensor
    logits: torch.Tensor | None
    numerics: Numerics
    given: Mapping[str, torch.Tensor] = field(default_factory=dict)
    token_ids: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    columns: torch.Tensor | None = None
    local: tuple[int, int] | None = None
    replicated: bool = True
    taps: dict[str, Tap] = field(default_factory=dict)

    def _tap(self, name: str, compute: Callable[[], Tap]) -> Tap:
        if name not in self.taps:
            given = self.given.get(name)
            self.taps[name] = compute() if given is None else taken(given)
        return self.taps[name]

    @cached_property
    def computed(self) -> torch.Tensor | None:
        """The tokens to compute: `rows`, or all (None) where a scale spans rows."""
        return None if spans_rows(self.layer, self.params) else self.rows

    @cached_property
    def tokens(self) -> Tap:
        """x as given, f64, the computed rows only."""
        return self._rows(bounds.exactly(self.x.to(torch.float64)))

    @cached_property
    def prepared(self) -> Tap:
        """x quantised to the layer's activation format and back.

        It covers all tokens, since a per-tensor scale does. With the weight on the
        input it waits for weighted rows.
        """
        form = self.layer.activations
        if self.layer.weight_on == "input":
            return self.tokens
        if isinstance(form, str):
            return self.tokens.map(lambda t: round_to(t, form))
        return self._rows(self._operand("x", bounds.exactly(self.x), form))

    @cached_property
    def routed_logits(self) -> Routed | None:
        """What the router makes of the logits; None where there are none."""
        if self.logits is None:
            return None
        logits, token_ids = self.logits, self.token_ids
        if self.computed is not None:
            logits = logits[self.computed]
            token_ids = None if token_ids is None else token_ids[self.computed]
        routed = route(
            logits, self.layer, self.params, self.numerics, token_ids=token_ids
        )
        self.taps["scores"] = routed.scores
        return routed

    def ids(self) -> torch.Tensor:
        """i64[T, k] of the chosen experts."""

        def chosen() -> Tap:
            routed = self._need_logits("ids")
            return Tap(routed.ids, admissible=routed.admissible)

        return self._tap("ids", chosen).value.to(torch.int64)

    def weights(self) -> Tap:
        """Routing weights [T, k]; those of the given ids where ids are given."""

        def weighed() -> Tap:
            routed = self._need_logits("weights")
            given = "ids" in self.given
            return routed.weights_for(self.ids()) if given else routed.weights

        return self._tap("weights", weighed)

    @cached_property
    def permutation(self) -> Permutation:
        """Rows of the local experts; identity experts have none."""
        ids = torch.where(self.ids() >= self.layer.experts, -1, self.ids())
        found = permute(ids, self.layer.experts, local=self.local)
        self.taps["rows"], self.taps["offsets"] = Tap(found.slots), Tap(found.offsets)
        return found

    @cached_property
    def row_weights(self) -> Tap:
        """Weights [R, 1] of the permuted rows."""
        slots = self.permutation.slots
        return self.weights().map(lambda t: t.reshape(-1)[slots][:, None])

    def gate_up(self) -> Tap:
        """GEMM1 with its bias [R, 2I]."""
        return self._tap("gate_up", self._first_gemm)

    def _first_gemm(self) -> Tap:
        layer, params, numerics = self.layer, self.params, self.numerics
        tokens = self.permutation.tokens
        rows = self.prepared.map(lambda t: t[tokens])
        if layer.weight_on == "input":
            # A product has more bits than the type in which it is kept.
            point = numerics.weighted
            rows = bounds.multiply(rows, self.row_weights, point, numerics)
            if isinstance(layer.activations, str):
                rows = bounds.rounded(rows, layer.activations, numerics)
            else:
                rows = self._operand("x", rows, layer.activations)
        return grouped_gemm(
            rows, params.gate_up, self.permutation.offsets, numerics,
            bias=params.gate_up_bias, point=numerics.gate_up,
            x_format=layer.activations,
        )  # fmt: skip

    def intermediate(self) -> Tap:
        """The activation, weighted where the weight is on it [R, I]."""
        return self._tap("intermediate", self._activated)

    def _activated(self) -> Tap:
        owner, params = self.permutation.experts, self.params
        tables = {"alpha": params.alpha, "beta": params.beta, "limit": params.limit}
        own = {name: None if t is None else t[owner] for name, t in tables.items()}
        gate_up, kind = self.gate_up(), self.layer.activation
        hidden = activate(gate_up, kind, self.numerics, **own)
        if self.layer.weight_on == "intermediate":
            point = self.numerics.activation
            hidden = bounds.multiply(hidden, self.row_weights, point, self.numerics)
        return bounds.rounded(hidden, self.numerics.intermediate, self.numerics)

    def requantized(self) -> Tap:
        """The intermediate as GEMM2 sees it [R, I]."""
        form = self.layer.requantize
        if not isinstance(form, BlockFormat):
            return self.intermediate()
        given = "intermediate_codes" in self.given
        values = None if given else self.intermediate()
        return self._operand("intermediate", values, form)

    def down(self) -> Tap:
        """GEMM2 with its bias [R, H]."""

        def second_gemm() -> Tap:
            return grouped_gemm(
                self.requantized(), self.params.down, self.permutation.offsets,
                self.numerics, bias=self.params.down_bias, point=self.numerics.down,
                columns=self.columns, x_format=self.layer.requantize,
            )  # fmt: skip

        return self._tap("down", second_gemm)

    def routed(self) -> Tap:
        """The weighted sum over the choices [T, H], routed scale included."""

        def combined() -> Tap:
            layer, numerics = self.layer, self.numerics
            down, permutation = self.down(), self.permutation
            if layer.routing.zero_experts and self.replicated:
                columns = slice(None) if self.columns is None else self.columns
                x = self.tokens.map(lambda t: t[:, columns])
                if layer.weight_on != "output":
                    x = weighted_rows(x, self.weights(), numerics)
                down, permutation = with_identity(
                    down, permutation, x, self.ids(), layer.experts
                )
            weights = self.weights() if layer.weight_on == "output" else None
            total = combine(down, permutation, weights, numerics)
            if layer.routing.scale_on == "sum" and layer.routing.scale != 1.0:
                factor = bounds.constant(layer.routing.scale, total, numerics.combine)
                total = bounds.multiply(total, factor, numerics.combine, numerics)
            return total

        return self._tap("routed", combined)

    def shared(self) -> Tap:
        """The shared expert's output [T, H]."""

        def computed() -> Tap:
            layer, params = self.layer, self.params
            seen = self.tokens
            if isinstance(params.shared_gate_up, Blocks):
                seen = self.prepared
                if layer.weight_on == "input":
                    seen = self._rows(unweighted(layer, params, self.x, self.numerics))
            routed = self.routed_logits if layer.routing.shared_logits else None
            # Their normalisation depends on what was chosen.
            gammas = None if routed is None else routed.weigh(self.ids())[1]
            return shared_expert(
                layer, params, seen, self.tokens, gammas, self.numerics, self.columns
            )

        return self._tap("shared", computed)

    def out(self) -> Tap:
        """The layer's output [T, H], rounded to its type."""
        layer, numerics, total = self.layer, self.numerics, self.routed()
        if layer.shared is not None:
            shared = self.shared() if self.replicated else None
            total = with_shared(total, shared, layer.shared, numerics)
        point = numerics.output or layer.dtype
        return self._tap("out", lambda: bounds.rounded(total, point, numerics))

    def _rows(self, tap: Tap) -> Tap:
        rows = self.computed
        return tap if rows is None else tap.map(lambda t: t[rows])

    def _need_logits(self, name: str) -> Routed:
        if self.routed_logits is None:
            raise ValueError(f"trace: without logits, {name!r} must be given")
        return self.routed_logits

    def _operand(self, name: str, values: Tap | None, form: BlockFormat) -> Tap:
        scale = self.params.x_scale if name == "x" else self.params.intermediate_scale
        seen, taps = operand(name, values, form, scale, self.given, self.numerics)
        self.taps.update(taps)
        return seen

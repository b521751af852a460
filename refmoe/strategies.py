"""Hypothesis strategies for cases: specifications, never tensors.

Every dimension of a case is drawn, sizes at the edges of tiles and buckets more often
than others; what is drawn is raised to the nearest case that can be built, so nothing
is thrown away. Each draw is an event (`--hypothesis-show-statistics`). What is simpler
comes first everywhere: a failing case shrinks to plain fields without a model, few
tokens, small sizes, dense memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import event
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from refmoe.case import CHOICES, LOADS, MEMORY, Case, Value
from refmoe.dimensions import looks_at, slots_of
from refmoe.fitting import fitted, takes_format, within
from refmoe.port import Port, accepts
from refmoe.protocol import OPS
from refmoe.protocol import op as op_called
from refmoe.regimes import REGIMES
from refmoe.supports import Supports

#: Sizes at which kernels change: tiles, buckets, powers of two and their neighbours.
_EDGES: dict[str, tuple[int, ...]] = {
    "T": (7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 8192),
    "H": (16, 24, 32, 40, 64, 96, 128, 160, 192, 256, 288, 320, 384, 512),
    "I": (16, 24, 32, 40, 64, 96, 128, 160, 192, 224, 256, 288, 352, 384),
    "E": (7, 8, 9, 12, 16, 31, 32, 33, 60, 64, 96, 128, 160, 256, 257, 300, 384, 512),
    "k": (3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 22, 32),
}


def _each(field: str, *names: str) -> tuple[dict[str, Value], ...]:
    """One group of fields for every name; a shared expert gets its size later."""
    size: dict[str, Value] = {}
    if field.startswith("shared."):
        size["shared.intermediate"] = 1
    return tuple({field: name, **size} for name in names)


#: Groups of fields of a layer without a model, the ordinary ones first.
_FIELDS: dict[str, tuple[dict[str, Value], ...]] = {
    "routing": (
        {},
        {"routing.renormalize": "sum"},
        {"routing.order": "topk_then_score"},
        {"routing.score": "sigmoid", "routing.bias": "selection"},
        {"routing.score": "sqrtsoftplus", "routing.bias": "selection"},
        {"routing.score": "sigmoid", "routing.order": "topk_then_score"},
        {"routing.score": "identity"},
        {"routing.bias": "logits"},
        {"routing.softcap": 5.0, "routing.logits_scale": 0.5},
        {"routing.per_expert_scale": True},
        {"routing.method": "hash"},
        {"routing.method": "sparsemixer"},
        {"routing.zero_experts": 4},
        {"routing.groups": 4, "routing.top_groups": 2},
        {
            "routing.groups": 4, "routing.top_groups": 2, "routing.score": "sigmoid",
            "routing.bias": "selection", "routing.group_score": "top2",
            "routing.renormalize": "sum_plus_epsilon", "routing.epsilon": 1e-20,
        },
    ),
    "scale": (
        {}, {"routing.scale": 2.5}, {"routing.scale": 2.5, "routing.scale_on": "sum"},
    ),
    "activation": (
        {},
        {"activation.limit": 7.0},
        {"activation.limit": 0.0},
        {"activation.limit": 0.5},
        {"activation.limit": 1.0, "activation.clamp": "after"},
        {"activation.limit": 7.0, "activation.alpha": 1.702, "activation.beta": 1.0},
        *_each(
            "activation.kind", "geglu_tanh", "geglu_erf", "softcap", "silu", "gelu_erf",
            "relu2", "identity",
        ),
    ),
    "bias": ({}, {"expert_bias": True}),
    "weight_on": ({}, {"weight_on": "input"}, {"weight_on": "intermediate"}),
    "shared": (
        {},
        *_each("shared.combine", "add", "gated", "average", "rsqrt2"),
    ),
}  # fmt: skip
_WEIGHTS = (None, "mxfp4", "mxfp8_e4m3", "nvfp4", "int8_token", "fp8_block_128")
_ACTIVATIONS = (None, "mxfp8_e4m3", "nvfp4", "fp8_group_128")
_FORMATS = ("mxfp8_e4m3", "mxfp4", "nvfp4", "mxfp8_e5m2", "fp8_group_128", "int8_token")
#: Models that stand for the families of routers and activations.
MODELS = (
    "mixtral-8x7b", "qwen3-30b-a3b", "gpt-oss-120b", "deepseek-v3", "deepseek-v4-flash",
    "longcat-flash",
)  # fmt: skip


def cases(
    port: Port | None = None,
    *,
    ops: Sequence[str] | None = None,
    models: Sequence[str] = MODELS,
    formats: Sequence[str] = _FORMATS,
    regimes: Sequence[str] | None = None,
    max_elements: int = 1 << 18,
) -> SearchStrategy[Case]:
    """Cases of `ops`, or of those that the port has, that can all be built.

    Where the port's `supports` is structured, names and sizes are drawn inside it as
    far as model and formats let them. No case has more than `max_elements` elements
    unless its model cannot be smaller.

    Raises ValueError for an unknown op, or a port that has none of them.
    """
    for name in ops or ():
        op_called(name)
    offered = tuple(OPS if port is None else port.ops)
    chosen = tuple(name for name in ops or offered if name in offered)
    if not chosen:
        raise ValueError(
            f"cases: the port has none of {', '.join(ops or OPS)}; it has "
            f"{', '.join(offered)}"
        )
    supports = None if port is None else port.get("supports")
    bounds = supports if isinstance(supports, Supports) else Supports()
    draws = _Draws(
        port, bounds, chosen, tuple(models), tuple(formats),
        tuple(regimes or REGIMES), max_elements,
    )  # fmt: skip
    return draws.cases()


@dataclass(frozen=True, slots=True)
class _Draws:
    """What `cases` was asked for."""

    port: Port | None
    supports: Supports
    ops: tuple[str, ...]
    models: tuple[str, ...]
    formats: tuple[str, ...]
    regimes: tuple[str, ...]
    largest: int

    def cases(self) -> SearchStrategy[Case]:
        """The strategy."""

        @st.composite
        def drawn(draw: DrawFn) -> Case:
            case = self._structure(draw, self._layer(draw))
            case = self._rank(draw, within(case, self.largest))
            return fitted(self.supports.fitted(case))

        return drawn()

    def _layer(self, draw: DrawFn) -> Case:
        """Op, model or fields of the layer, formats and sizes."""
        op = self._one(draw, "op", self.ops)
        sizes = {name: self._size(draw, name) for name in ("T", "E", "k", "H", "I")}
        case = Case(op).but(**sizes)
        if takes_format(op):
            form = self._one(draw, "format", self.formats, "formats")
            case = case.but(format=form)
        if not OPS[op].layered:
            return case
        model = self._one(draw, "model", (None, *self.models), "models")
        changes: dict[str, Value] = {}
        for name, choices in _FIELDS.items():
            # Drawn beside a model too: to shrinking, fewer draws are simpler.
            changes |= choices[self._one(draw, name, tuple(range(len(choices))))]
        weights = self._one(draw, "weights", _WEIGHTS, "weights")
        return case.but(
            model=model,
            changes=tuple(sorted(changes.items())) if model is None else (),
            dtype=self._one(draw, "dtype", (None, "fp16", "fp32"), "dtypes"),
            weights=weights,
            activations=self._one(draw, "activations", _ACTIVATIONS, "activations"),
        )

    def _structure(self, draw: DrawFn, case: Case) -> Case:
        """Load, slots, memory, constants, types, values."""
        words: dict[str, tuple[Any, ...]] = {
            "load": LOADS,
            "slots": slots_of(case.op),
            "memory": MEMORY,
        }
        for name in ("constants", "logits_dtype", "bias_dtype"):
            if looks_at(case.op, name):
                first = getattr(case, name)
                rest = (word for word in CHOICES[name] if word not in (first, "fp32"))
                words[name] = (first, *rest)
        changes = {
            name: self._one(draw, name, choices, name)
            for name, choices in words.items()
        }
        rules = tuple(
            name
            for name in self.regimes
            if not REGIMES[name].suits or case.op in REGIMES[name].suits
        )
        changes["regime"] = self._one(draw, "regime", rules or self.regimes)
        changes["seed"] = draw(st.integers(0, 255), label="seed")
        return case.but(**changes)

    def _rank(self, draw: DrawFn, case: Case) -> Case:
        """Parallelism and sampled rows, which need the final sizes."""
        experts, op = case.layer.experts, case.op
        function = None if self.port is None else self.port.ops[op]
        splits = ["none"]
        if looks_at(op, "local") and experts > 1 and self.supports.local:
            if function is None or accepts(function, "local"):
                splits.append("local")
        if looks_at(op, "shard"):
            splits.append("shard")
        split = self._one(draw, "split", tuple(splits))
        if split != "none":
            most = min(4, experts) if split == "local" else 3
            size = draw(st.integers(2, most), label="ranks")
            rank = draw(st.integers(0, size - 1), label="rank")
            case = within(case.but(**{split: f"{rank}/{size}"}), self.largest)
        if (
            looks_at(op, "rows")
            and case.T > 1
            and self._one(draw, "sampled", (False, True))
        ):
            case = case.but(rows=draw(st.integers(1, case.T), label="rows"))
        return case

    def _size(self, draw: DrawFn, name: str) -> int:
        """A small size, or one at an edge, inside what is supported."""
        low = 0 if name == "T" else 1
        small = st.integers(low, _EDGES[name][0])
        edge = st.sampled_from(_EDGES[name])
        size = self.supports.size(name, draw(small | edge, label=name))
        event(f"{name}: {'an edge' if size in _EDGES[name] else 'small'}", size)
        return size

    def _one(
        self, draw: DrawFn, name: str, choices: Sequence[Any], supported: str = ""
    ) -> Any:
        """One of the choices, the simplest first; unsupported names are left out."""
        known = getattr(self.supports, supported, None)
        left = [one for one in choices if known is None or one is None or one in known]
        value = draw(st.sampled_from(left or list(choices)), label=name)
        event(f"{name}: {value}")
        return value

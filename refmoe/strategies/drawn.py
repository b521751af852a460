"""Cases of one port: every field drawn, then fitted to what can be built."""

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
from refmoe.strategies.choices import (
    ACTIVATIONS,
    EDGES,
    FIELDS,
    FORMATS,
    GROUPS,
    MODELS,
    SEEDS,
    WEIGHTS,
    choice,
    sizes,
)
from refmoe.supports import Supports


def cases(
    port: Port | None = None,
    *,
    ops: Sequence[str] | None = None,
    models: Sequence[str] = MODELS,
    formats: Sequence[str] = FORMATS,
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
            case = fitted(self.supports.fitted(case))
            unfit = self.supports.reason(case)
            return case if unfit is None else self.supports.instead(case)

        return drawn()

    def _layer(self, draw: DrawFn) -> Case:
        """Op, model or fields of the layer, formats and sizes."""
        op = self._one(draw, "op", self.ops)
        # What the op does not look at has any size that the rest admits.
        names = ("T", *OPS[op].sizes)
        case = Case(op, H=1, I=1, E=1, k=1)
        case = case.but(**{name: self._size(draw, name) for name in names})
        if takes_format(op):
            form = self._one(draw, "format", self.formats, "formats")
            case = case.but(format=form)
        if not OPS[op].layered:
            return case
        bare = () if self.supports.models else (None,)
        words: dict[str, Value] = {
            "model": self._one(draw, "model", (*bare, *self.models), "models"),
            "dtype": self._one(draw, "dtype", (None, "fp16", "fp32"), "dtypes"),
        }
        if OPS[op].weighted:
            for name, choices in (("weights", WEIGHTS), ("activations", ACTIVATIONS)):
                words[name] = self._one(draw, name, choices, name)
        changes: dict[str, Value] = {}
        for name in GROUPS.get(op, tuple(FIELDS)):
            # Drawn beside a model too: to shrinking, fewer draws are simpler.
            groups = FIELDS[name]
            changes |= groups[self._one(draw, name, tuple(range(len(groups))))]
        plain = tuple(sorted(changes.items())) if words["model"] is None else ()
        return case.but(changes=plain, **words)

    def _structure(self, draw: DrawFn, case: Case) -> Case:
        """Load, slots, memory, constants, types, values."""
        words: dict[str, tuple[Any, ...]] = {"memory": MEMORY}
        if "E" in OPS[case.op].sizes:
            words |= {"load": LOADS, "slots": slots_of(case.op)}
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
        changes["seed"] = draw(SEEDS)
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
            size = self._one(draw, "ranks", tuple(range(2, most + 1)))
            rank = self._one(draw, "rank", tuple(range(size)))
            case = within(case.but(**{split: f"{rank}/{size}"}), self.largest)
        if (
            looks_at(op, "rows")
            and case.T > 1
            and self._one(draw, "sampled", (False, True))
        ):
            case = case.but(rows=draw(st.integers(1, case.T)))
        return case

    def _size(self, draw: DrawFn, name: str) -> int:
        """A small size, or one at an edge, inside what is supported."""
        size = self.supports.size(name, draw(sizes(name)))
        event(f"{name}: {'an edge' if size in EDGES[name] else 'small'}", size)
        return size

    def _one(
        self, draw: DrawFn, name: str, choices: Sequence[Any], supported: str = ""
    ) -> Any:
        """One of the choices, the simplest first; unsupported names are left out.

        Where that leaves none, one of those that are supported.
        """
        known = getattr(self.supports, supported, None)
        left = [one for one in choices if known is None or one is None or one in known]
        value = draw(choice(name, tuple(left or known or choices)))
        event(f"{name}: {value}")
        return value

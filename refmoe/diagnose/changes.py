"""Ways to make another problem of a problem: one field, one tensor, one format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from oracle.params import Blocks, Params
from oracle.spec import BlockFormat, Layer
from refmoe.diagnose.hypothesis import Change
from refmoe.problem import Problem


def layer(change: Callable[[Layer], Layer]) -> Change:
    """The problem with another layer."""

    def changed(problem: Problem) -> Problem | None:
        found = change(problem.layer)
        return None if found == problem.layer else problem.but(layer=found)

    return changed


def routing(**fields: Any) -> Change:
    """The problem with other fields of its routing."""
    return layer(lambda own: replace(own, routing=replace(own.routing, **fields)))


def activation(**fields: Any) -> Change:
    """The problem with other fields of its activation, for every expert."""

    def changed(problem: Problem) -> Problem | None:
        own = problem.layer
        found = replace(own, activation=replace(own.activation, **fields))
        overrides: dict[str, Any] = {
            name: None
            for name in fields
            if getattr(problem.params, name, None) is not None
        }
        if found == own and not overrides:
            return None
        return problem.but(layer=found, params=replace(problem.params, **overrides))

    return changed


def numerics(**fields: Any) -> Change:
    """The problem in another arithmetic."""

    def changed(problem: Problem) -> Problem | None:
        found = problem.numerics.but(**fields)
        return None if found == problem.numerics else problem.but(numerics=found)

    return changed


def params(*names: str) -> Callable[[Callable[[Any], Any]], Change]:
    """The problem with some of its params changed alike, those that there are."""

    def decorated(change: Callable[[Any], Any]) -> Change:
        def changed(problem: Problem) -> Problem | None:
            found = {
                name: change(value)
                for name in names
                if (value := getattr(problem.params, name)) is not None
            }
            if not found:
                return None
            return problem.but(params=replace(problem.params, **found))

        return changed

    return decorated


def inputs(*names: str) -> Callable[[Callable[[Any], Any]], Change]:
    """The problem with some of its inputs changed alike, those that there are."""

    def decorated(change: Callable[[Any], Any]) -> Change:
        def changed(problem: Problem) -> Problem | None:
            found = {
                name: change(problem.inputs[name])
                for name in names
                if isinstance(problem.inputs.get(name), torch.Tensor)
            }
            return problem.but(inputs={**problem.inputs, **found}) if found else None

        return changed

    return decorated


def blocks(change: Callable[[Blocks], Blocks | None]) -> Change:
    """The problem with every block-scaled tensor that it is given changed alike."""

    def seen(value: Any) -> Any:
        found = change(value) if isinstance(value, Blocks) else None
        return value if found is None else found

    def changed(problem: Problem) -> Problem | None:
        given = {
            name: seen(problem.inputs[name])
            for name in ("blocks", "weights")
            if isinstance(problem.inputs.get(name), Blocks)
        }
        own: Params = problem.params
        weights = {name: seen(getattr(own, name)) for name in ("gate_up", "down")}
        same = all(value is problem.inputs[name] for name, value in given.items())
        if same and all(value is getattr(own, name) for name, value in weights.items()):
            return None
        return problem.but(
            inputs={**problem.inputs, **given}, params=replace(own, **weights)
        )

    return changed


def form(change: Callable[[BlockFormat], BlockFormat]) -> Change:
    """The problem with another block format to quantise to."""

    def changed(problem: Problem) -> Problem | None:
        own = problem.inputs["format"]
        found = change(own)
        if found == own:
            return None
        return problem.but(inputs={**problem.inputs, "format": found})

    return changed

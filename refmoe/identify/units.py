"""Sums along a tree as each known unit has them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from oracle.formats import round_to
from oracle.numerics import ACCUMULATORS, Accumulator
from refmoe.identify import tree as trees
from refmoe.identify.tree import Tree

#: Units that add two at a time and round to nearest, with the type of their sums.
NEAREST = {"fp64": "fp64", "ffma": "fp32", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class Products:
    """What is added up: x times each row of w.

    Shapes: x f64[K], w f64[N, K]
    """

    x: torch.Tensor
    w: torch.Tensor

    def total(
        self, tree: Tree, unit: Accumulator, kind: str, parts: list[Tree]
    ) -> torch.Tensor:
        """The sums f64[N] of `unit`, those of the subtrees `parts` rounded to `kind`.

        A fused step aligns products by their factors' exponents. Sums of two sums are
        rounded to nearest, as where a truncating unit is promoted or split.
        """
        products = (self.x * self.w).T
        exponents = (_exponent(self.x) + _exponent(self.w)).T
        cut = {id(node) for node in parts} if kind != "none" else set()

        def walk(node: Tree) -> tuple[torch.Tensor, torch.Tensor]:
            if isinstance(node, int):
                return products[node], exponents[node]
            terms = [walk(child) for child in node]
            sums = len(node) == 2 and not any(isinstance(child, int) for child in node)
            if unit.rounding == "nearest" or sums:
                value = terms[0][0]
                for term, _ in terms[1:]:
                    value = round_to(value + term, NEAREST.get(unit.name, "fp32"))
            else:
                value = _fused(terms, unit)
            if id(node) in cut:
                value = round_to(value, kind)
            return value, _exponent(value)

        return walk(tree)[0]


def fitting(tree: Tree, units: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the units that add as many at once, and promote as often, as the tree.

    Additions of two are the steps of no truncating unit.
    """
    if trees.arity(tree) == 2:
        return units
    steps = trees.arity(tree) - 1
    wide = [ACCUMULATORS[name] for name in units if ACCUMULATORS[name].terms == steps]
    runs = {len(trees.leaves(node)) for node in trees.fused(tree)}
    promoted = any(unit.promote in runs for unit in wide)
    return tuple(unit.name for unit in wide if bool(unit.promote) == promoted)


def _fused(
    terms: list[tuple[torch.Tensor, torch.Tensor]], unit: Accumulator
) -> torch.Tensor:
    """One step: terms cut at F bits below the largest, then their sum at Fout bits."""
    top = torch.stack([exponent for _, exponent in terms]).amax(0)
    grain = torch.exp2((top.clamp_min(unit.minimum_exponent) - unit.fraction).double())
    value = torch.stack([(term / grain).trunc() for term, _ in terms]).sum(0) * grain
    last = torch.exp2((_exponent(value).clamp_min(-126) - unit.out_fraction).double())
    return (value / last).trunc() * last


def _exponent(values: torch.Tensor) -> torch.Tensor:
    """floor(log2 |v|), far below everything for zero."""
    return (torch.frexp(values).exponent - 1).masked_fill(values == 0, -400)

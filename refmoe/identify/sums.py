"""How a dot product is added up: order, width, truncation, partial sums.

First each column puts 3/2, a small number and -3/2 at three places: what is left says
how many bits the sum so far had, and whether it was rounded or cut. Then the summation
tree is revealed. Last, sums that cancel are computed along the tree as every known unit
would, and compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product

import torch

from oracle.formats import round_to
from oracle.numerics import ACCUMULATORS
from refmoe.generator import Stream
from refmoe.identify import tree as trees
from refmoe.identify.box import Silent, bits
from refmoe.identify.contest import READING
from refmoe.identify.dots import SUMMANDS, Dots
from refmoe.identify.tree import Tree
from refmoe.identify.units import NEAREST, Products, fitting

#: Depths at which the small number stands below 1.
_DEPTHS = 60
_TRIPLES = 16
#: Repetitions that show whether sums differ from call to call.
REPEATS = 3
#: Cancelling sums that are compared.
_CANCELLING = 128


@dataclass(frozen=True, slots=True)
class Sums:
    """What is known of a port's dot products."""

    op: str
    #: Units of ACCUMULATORS that explain every output.
    units: tuple[str, ...]
    tree: Tree | None
    #: Partial sums and the type that they are rounded to, where that is narrower.
    splits: int
    partial: str
    deterministic: bool
    #: (fraction bits, rounding) of the sums so far, the widest last.
    widths: tuple[tuple[int, str], ...]
    #: For the evidence: the input and output that tell candidates apart, and what each
    #: unit with each type of partial sums would have given.
    given: str
    output: str
    candidates: Mapping[tuple[str, str], str]

    @property
    def compute(self) -> str:
        """The type of sums that are not rounded further."""
        return "fp64" if self.units == ("fp64",) else "fp32"

    @property
    def bits(self) -> int:
        """Fraction bits of the running sum."""
        return _running(self.widths)

    def stored(self, values: torch.Tensor) -> torch.Tensor:
        """Sums of neighbouring products as they leave their partial sum."""
        return values if self.partial == "none" else round_to(values, self.partial)


def examine(dots: Dots) -> Sums:
    """All of it; raises Silent where the port's sums do not even show their width."""
    x, w = _cancelling()
    outputs = [dots(x, w) for _ in range(REPEATS)]
    deterministic = all(torch.equal(outputs[0], other) for other in outputs[1:])
    widths = tuple(sorted(_widths(dots)))
    if not widths:
        raise Silent(f"{dots.op}: no sum lost anything, at any width")
    tree = reveal(dots, SUMMANDS) if deterministic else None
    if tree is None:
        width, rule = widths[-1]
        fits = tuple(
            name
            for name in NEAREST
            if rule == "nearest" and ACCUMULATORS[name].out_fraction == width
        )
        return Sums(
            dots.op, fits, None, 1, "none", deterministic, widths,
            "3/2, a small number and -3/2 in any order",
            f"{rule} at {width} fraction bits", {},
        )  # fmt: skip
    return _along(dots.op, tree, widths, Products(x, w), outputs[0])


def _along(
    op: str,
    tree: Tree,
    widths: tuple[tuple[int, str], ...],
    products: Products,
    got: torch.Tensor,
) -> Sums:
    """The units, and the type of partial sums, that give `got` along the tree."""
    parts = trees.runs(tree)
    kinds = ("none", "bf16", "fp16") if parts and len(widths) > 1 else ("none",)
    wide = trees.arity(tree) > 2
    predicted = {
        (name, kind): products.total(tree, unit, kind, parts)
        for (name, unit), kind in product(ACCUMULATORS.items(), kinds)
        if (
            unit.rounding == "truncate" and unit.group == 1 if wide else name in NEAREST
        )
    }
    fits = [
        (name, kind)
        for (name, kind), want in predicted.items()
        if ACCUMULATORS[name].out_fraction == _running(widths)
        and bool(((got - want).abs() <= want.abs() * READING).all())
    ]
    units = fitting(tree, tuple(dict.fromkeys(name for name, _ in fits)))
    found = {kind for _, kind in fits}
    kind = found.pop() if len(found) == 1 else "none"
    rows = torch.stack(list(predicted.values()))
    place = int(rows.ne(got).sum(0).argmax())
    shown = {key: bits(float(want[place])) for key, want in predicted.items()}
    return Sums(
        op, units, tree, len(parts) if kind != "none" else 1, kind, True, widths,
        f"{SUMMANDS} products of numbers of four bits that cancel (column {place})",
        bits(float(got[place])), shown,
    )  # fmt: skip


def _running(widths: tuple[tuple[int, str], ...]) -> int:
    """Fraction bits of the running sum: inside one step more may be kept, and partial
    sums may be stored in fewer."""
    known = {unit.out_fraction for unit in ACCUMULATORS.values()}
    return max((width for width, _ in widths if width in known), default=widths[0][0])


def reveal(dots: Dots, count: int) -> Tree | None:
    """The summation tree, if the sums are those of one."""
    unit, mask = 1.0, 2.0**80
    if dots.case.layer.dtype == "fp16":
        unit, mask = 2.0**-14, 2.0**15
    x = torch.ones(count, dtype=torch.float64)

    def measure(pairs: list[trees.Pair]) -> dict[trees.Pair, int]:
        w = torch.full((len(pairs), count), unit, dtype=torch.float64)
        first, second = torch.tensor(pairs).T
        row = torch.arange(len(pairs))
        w[row, first], w[row, second] = mask, -mask
        left = dots(x, w) / unit
        if not bool(left.isfinite().all()):
            return dict.fromkeys(pairs, 0)
        return {
            pair: count - round(float(n)) for pair, n in zip(pairs, left, strict=True)
        }

    return trees.reveal(count, measure)


def _widths(dots: Dots) -> set[tuple[int, str]]:
    """(fraction bits, rounding) of the sums that some triple of places shows.

    Past 1.5, a small 5/4 or 7/4 of the last place becomes 1 and 2 of it to nearest, and
    twice the same where sums are cut (which one depends on the sign met first).
    """
    places = Stream(0, "triples").permutations(_TRIPLES, SUMMANDS)[:, :3]
    # Neighbours too, which any split of the sum leaves together.
    places[0::2] = places[0::2, :1].clamp(max=SUMMANDS - 4) + torch.tensor([[1, 2, 3]])
    count = 20 if dots.case.layer.dtype == "fp16" else _DEPTHS
    last = torch.exp2(-torch.arange(3.0, count + 3, dtype=torch.float64))
    small = torch.tensor([[1.25], [1.75]], dtype=torch.float64) * last
    w = torch.zeros(_TRIPLES, 2, count, SUMMANDS, dtype=torch.float64)
    one, other, minus = places.T[:, :, None, None, None].expand(-1, -1, 2, count, 1)
    w.scatter_(3, one, 1.5).scatter_(3, minus, -1.5)
    w.scatter_(3, other, small.expand(_TRIPLES, -1, -1)[..., None])
    x = torch.ones(SUMMANDS, dtype=torch.float64)
    left = dots(x, w.flatten(0, 2)).reshape(w.shape[:3])
    found = set()
    for row in left:
        wrong = (row != small).any(0).nonzero()
        if not len(wrong) or int(wrong[0]) + 1 >= count:
            continue
        place = int(wrong[0]) + 1
        shown = (row[:, place] / last[place]).tolist()
        rule = {(1, 2): "nearest", (1, 1): "truncate", (2, 2): "truncate"}
        if tuple(shown) in rule:
            found.add((place + 3, rule[tuple(shown)]))
    return found


@cache
def _cancelling() -> tuple[torch.Tensor, torch.Tensor]:
    """A token and columns whose products cancel to zero, in numbers of four bits.

    Shapes: f64[K], f64[N, K]
    """
    half = SUMMANDS // 2

    def drawn(name: str, count: int) -> torch.Tensor:
        stream = Stream(0, name)
        size = stream.integers((count, half), 8, 15).double()
        sign = 1.0 - 2.0 * stream.integers((count, half), 0, 1).double()
        low, high = (-5, 5) if count == 1 else (-5, 8)
        return size * sign * torch.exp2(stream.integers((count, half), low, high) - 3.0)

    x, w = drawn("token", 1)[0], drawn("columns", _CANCELLING)
    x[0] = 1.0
    order = Stream(0, "order").permutations(1, half)[0]
    return torch.cat([x, x[order]]), torch.cat([w, -w[:, order]], 1)

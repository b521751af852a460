"""Summation trees, revealed from outside.

A unit M at place i and -M at place j swallow every summand that is added between them:
with ones elsewhere, n minus the result is the number of leaves below the node where i
and j meet. Enough such counts give the tree (Xie, Gao, Hu, Chen 2024, "FPRev"). A node
of more than two children is a fused step of a matrix unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

#: A leaf's number, or the trees that one addition takes.
Tree = int | tuple["Tree", ...]
Pair = tuple[int, int]
#: Leaves below the node where the two of each pair meet.
Measure = Callable[[list[Pair]], Mapping[Pair, int]]


def reveal(count: int, measure: Measure) -> Tree | None:
    """The tree over `count` summands; None if no tree has the measured sizes.

    `measure` is called once a level, with all pairs that the level asks for.
    """
    known: dict[Pair, int] = {}
    while True:
        missing: list[Pair] = []
        (tree,) = _children(list(range(count)), count + 1, known, missing)
        if not missing:
            return _ordered(tree) if _consistent(tree, known) else None
        known |= measure(missing)


def _children(
    leaves: list[int], above: int, known: Mapping[Pair, int], missing: list[Pair]
) -> list[Tree]:
    """The trees over `leaves` that a node with `above` leaves joins."""
    found: list[Tree] = []
    while leaves:
        # From the middle, so that chains in either order take few levels.
        own = leaves[len(leaves) // 2]
        others = [other for other in leaves if other != own]
        pairs = {other: (min(own, other), max(own, other)) for other in others}
        asked = [pair for pair in pairs.values() if pair not in known]
        if asked:
            missing += asked
            return [*found, tuple(leaves)]
        sizes = {other: known[pairs[other]] for other in others}
        tree: Tree = own
        for size in sorted({size for size in sizes.values() if size < above}):
            joined = [other for other in others if sizes[other] == size]
            tree = (tree, *_children(joined, size, known, missing))
        found.append(tree)
        leaves = [other for other in others if sizes[other] >= above]
    return found


def _ordered(tree: Tree) -> Tree:
    """The tree with the sum so far before what is added to it."""

    def walk(node: Tree) -> tuple[int, int, Tree]:
        """Minus the number of leaves, the least leaf, the node in order."""
        if isinstance(node, int):
            return -1, node, node
        parts = sorted(map(walk, node), key=lambda part: part[:2])
        size, least, children = zip(*parts, strict=True)
        return sum(size), min(least), children

    return walk(tree)[2]


def _consistent(tree: Tree, known: Mapping[Pair, int]) -> bool:
    """Whether every measured pair meets at a node of the measured size."""
    meets: dict[Pair, int] = {}

    def walk(node: Tree) -> list[int]:
        if isinstance(node, int):
            return [node]
        below = [walk(child) for child in node]
        size = sum(map(len, below))
        for place, part in enumerate(below):
            for other in below[place + 1 :]:
                for a in part:
                    for b in other:
                        meets[min(a, b), max(a, b)] = size
        return [leaf for part in below for leaf in part]

    walk(tree)
    return all(meets.get(pair) == size for pair, size in known.items())


def leaves(tree: Tree) -> list[int]:
    """The leaves from left to right."""
    if isinstance(tree, int):
        return [tree]
    return [leaf for child in tree for leaf in leaves(child)]


def arity(tree: Tree) -> int:
    """The most that one addition takes."""
    if isinstance(tree, int):
        return 1
    return max(len(tree), *map(arity, tree))


def fused(tree: Tree) -> list[Tree]:
    """The largest subtrees whose root is a fused step."""
    if isinstance(tree, int):
        return []
    return [tree] if len(tree) > 2 else [n for child in tree for n in fused(child)]


def runs(tree: Tree) -> list[Tree]:
    """The equal consecutive runs of leaves that a tree adds up first, as subtrees.

    Two at least, sixteen at most, each of two leaves at least, and as few as there are;
    empty if the tree has none.
    """
    spans: dict[tuple[int, int], Tree] = {}

    def walk(node: Tree) -> tuple[int, int, int]:
        """Least and last leaf, and how many there are."""
        if isinstance(node, int):
            return node, node, 1
        low, high, size = zip(*map(walk, node), strict=True)
        found = min(low), max(high), sum(size)
        if found[1] - found[0] + 1 == found[2]:
            spans[found[:2]] = node
        return found

    count = walk(tree)[2]
    for parts in range(2, min(16, count // 2) + 1):
        size = -(-count // parts)
        edges = [*range(0, count, size), count]
        wanted = [(start, stop - 1) for start, stop in pairwise(edges)]
        if len(wanted) == parts and all(span in spans for span in wanted):
            return [spans[span] for span in wanted]
    return []


def described(tree: Tree) -> str:
    """The order in words.

    >>> described((((0, 1), 2), 3)), described(((0, 1), (2, 3)))
    ('one after the other', 'a balanced tree')
    """
    count, most = len(leaves(tree)), arity(tree)
    if most > 2:
        return f"fused steps of up to {most} terms, the sum so far among them"
    if is_chain(tree, range(count)):
        return "one after the other"
    if is_chain(tree, reversed(range(count))):
        return "one after the other, from the last"
    depth, order = _depth(tree), leaves(tree)
    if depth == count - 1:
        return f"one after the other: {', '.join(map(str, order[:6]))} ..."
    if depth == math.ceil(math.log2(count)):
        return "a balanced tree"
    parts = runs(tree)
    split = f", {len(parts)} runs of {len(leaves(parts[0]))} first" if parts else ""
    return f"a tree of depth {depth} over {count}{split}"


def is_chain(tree: Tree, order: Iterable[int]) -> bool:
    """Whether the tree adds its leaves one after the other in this order."""
    left = list(order)
    while len(left) > 2:
        last = left.pop()
        if isinstance(tree, int) or len(tree) != 2 or last not in tree:
            return False
        tree = tree[0] if tree[1] == last else tree[1]
    return tree in (tuple(left), tuple(reversed(left)))


def _depth(tree: Tree) -> int:
    return 0 if isinstance(tree, int) else 1 + max(map(_depth, tree))

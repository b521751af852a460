"""Summation trees from the counts that masked units leave."""

from __future__ import annotations

import pytest

from refmoe.generator import Stream
from refmoe.identify.tree import (
    Tree,
    arity,
    described,
    fused,
    is_chain,
    leaves,
    reveal,
    runs,
)


def measured(tree: Tree, pairs: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """The sizes of the nodes where each pair meets, by looking at the tree itself."""

    def meets(node: Tree, pair: tuple[int, int]) -> int:
        assert not isinstance(node, int)
        for child in node:
            if set(pair) <= set(leaves(child)):
                return meets(child, pair)
        return len(leaves(node))

    return {pair: meets(tree, pair) for pair in pairs}


def drawn(count: int, seed: int) -> Tree:
    """A tree whose nodes have two to five children each, leaves in any order."""
    order = Stream(seed, "order").permutations(1, count)[0].tolist()
    nodes: list[Tree] = list(order)
    step = 0
    while len(nodes) > 1:
        stream = Stream(seed, f"step {step}")
        size = min(len(nodes), int(stream.integers((1,), 2, 5)))
        first = int(stream.substream("place").integers((1,), 0, len(nodes) - size))
        nodes[first : first + size] = [tuple(nodes[first : first + size])]
        step += 1
    return nodes[0]


def same(first: Tree, second: Tree) -> bool:
    """Whether two trees are equal up to the order of children."""
    if isinstance(first, int) or isinstance(second, int):
        return first == second
    if len(first) != len(second):
        return False
    return all(any(same(a, b) for b in second) for a in first)


@pytest.mark.parametrize("seed", range(12))
def test_identify_tree_is_revealed_from_counts(seed: int) -> None:
    tree = drawn(3 + 5 * seed, seed)
    found = reveal(3 + 5 * seed, lambda pairs: measured(tree, pairs))
    assert found is not None
    assert same(found, tree)


def test_identify_tree_of_inconsistent_counts_is_none() -> None:
    def wrong(pairs: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
        return {pair: 2 + sum(pair) % 5 for pair in pairs}

    assert reveal(8, wrong) is None


def test_identify_tree_is_described_by_its_order() -> None:
    forward: Tree = 0
    backward: Tree = 7
    for leaf in range(1, 8):
        forward, backward = (forward, leaf), (backward, 7 - leaf)
    halves = (((0, 1), (2, 3)), ((4, 5), (6, 7)))
    steps = (((0, 1, 2, 3)), 4, 5, 6, 7)
    assert is_chain(forward, range(8))
    assert not is_chain(backward, range(8))
    assert described(forward) == "one after the other"
    assert described(backward) == "one after the other, from the last"
    assert described(halves) == "a balanced tree"
    assert described(steps).startswith("fused steps of up to 5")
    assert arity(steps) == 5
    assert fused(steps) == [steps]
    assert runs(halves) == [((0, 1), (2, 3)), ((4, 5), (6, 7))]
    assert runs(forward) == []

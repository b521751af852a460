"""Laws earn their place: with the oracle off, each catches what no other law does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from refmoe import runner
from refmoe.gallery import entries
from refmoe.gallery.entry import Entry
from refmoe.gallery.plain import Plain
from refmoe.laws import LAWS, Law, judge_law, launched, parts, state
from refmoe.loading import port_of
from refmoe.plan import DEFAULT_FORMATS, DEFAULT_MODELS, cells
from refmoe.problem import build
from refmoe.protocol import OPS
from refmoe.schedule import heard
from refmoe.verdict import Kind
from refmoe.verify import Verifier

ENTRIES = {**entries("mistake"), **entries("cheat")}
HONEST = entries("honest")
MODELS = ("mixtral-8x7b",)
FINE = (Kind.BIT_EQUAL, Kind.WITHIN, Kind.AMBIGUOUS, Kind.UNSUPPORTED)


class Tape(TorchDispatchMode):
    """The operations on tensors of a call, to run again: a graph without a GPU.

    What the host read in between is no operation: it stays as it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, given: Any = (), keywords: Any = None
    ) -> Any:
        result = function(*given, **(keywords or {}))
        self.steps.append((function, given, keywords or {}, result))
        return result

    def again(self, result: Any) -> Any:
        """`result` as it comes out this time."""
        new: dict[int, Any] = {}

        def found(value: Any) -> Any:
            return new.get(id(value), value)

        for function, given, keywords, old in self.steps:
            came = function(*tree_map(found, given), **tree_map(found, keywords))
            if isinstance(old, list | tuple):
                pairs = list(zip(old, came, strict=True))
            else:
                pairs = [(old, came)]
            new |= {id(before): after for before, after in pairs}
        return tree_map(found, result)


def replayed(call: Callable[[], Any], refill: Callable[[], object], device: str) -> Any:
    """`refmoe.graph.replayed` with a tape for a graph."""
    with Tape() as tape:
        result = call()
    refill()
    return tape.again(result)


def on_any_device(law: Law) -> Law:
    """The law with graphs of tapes, which need no GPU."""
    if law.name != "captured":
        return law

    def unfit(case: Any, port: Any) -> str | None:
        return None if port.get("graph_safe") else "not declared"

    return replace(law, unfit=unfit)


HEARD = tuple(on_any_device(law) for law in LAWS.values())


@pytest.fixture(autouse=True)
def _graphs_are_tapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "replayed", replayed)
    kept = lru_cache(maxsize=256)(build)
    for room in (state, parts):
        monkeypatch.setattr(room, "build", kept)


def verdicts(
    entry: Entry, law: Law, count: int = 0, models: tuple[str, ...] = MODELS
) -> Iterator[tuple[str, Kind, str]]:
    """What the law alone says of an entry, each case on a new port.

    As many cases as the law has sizes, unless a count is given.
    """
    ops = dict.fromkeys((entry.op, "moe"))
    grid = cells(
        tuple(ops), entry.models or models, entry.formats or DEFAULT_FORMATS, ("exact",)
    )
    count = count or len(law.sizes)
    for _, _, case in heard([port_of(entry.port(), entry.name)], grid, [law], count):
        port, problem = port_of(entry.port(), entry.name), build(case.but(law=None))
        problem = problem.but(numerics=port.definition(problem.layer)[1])
        verdict = judge_law(launched(law, port, problem), port, problem).verdict
        yield str(case), verdict.kind, verdict.detail


def caught(name: str, law: Law) -> bool:
    return any(kind.failed for _, kind, _ in verdicts(ENTRIES[name], law))


@pytest.mark.parametrize("law", HEARD, ids=lambda law: law.name)
def test_gallery_law_catches_what_no_other_law_does(law: Law) -> None:
    """Fails for a law that could go."""
    assert [other.name for other in HEARD if caught(law.catches, other)] == [law.name]


@pytest.mark.parametrize("name", ["cached_by_sample", "cached_by_all_of_x"])
def test_gallery_near_inputs_show_what_was_cached(name: str) -> None:
    assert caught(name, LAWS["near"])


def test_gallery_hundred_launches_show_a_race() -> None:
    assert caught("missing_barrier", LAWS["repeat"])


@pytest.mark.parametrize("name", HONEST)
def test_gallery_honest_port_keeps_some_laws(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fifth law, other ones for the next port; the long profile has them all."""
    monkeypatch.setattr(state, "_TIMES", 3)
    place = list(HONEST).index(name)
    for law in HEARD[place % 5 :: 5]:
        keeps(HONEST[name], law, 1, MODELS)


@pytest.mark.long
@pytest.mark.parametrize("name", HONEST)
def test_gallery_honest_port_keeps_all_laws(name: str) -> None:
    for law in HEARD:
        keeps(HONEST[name], law, 2 * len(DEFAULT_MODELS), DEFAULT_MODELS)


def test_gallery_plain_port_keeps_laws_of_every_op() -> None:
    port, verifier = port_of(Plain(), "plain"), Verifier()
    grid = cells(tuple(OPS), DEFAULT_MODELS, DEFAULT_FORMATS, ("exact",))
    cases = list(heard([port], grid, tuple(LAWS.values())))
    assert {cell.op for _, cell, _ in cases} == set(port.ops)
    for _, cell, case in cases:
        record = verifier.check(port, case, cell)
        assert record.kind in FINE[:3], record.judgement.verdict


def keeps(entry: Entry, law: Law, count: int, models: tuple[str, ...]) -> None:
    for case, kind, detail in verdicts(entry, law, count, models):
        assert kind in FINE, f"{kind} {case}: {detail}"

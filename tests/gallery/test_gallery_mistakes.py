"""Every mistake is caught by a verification, or says what it still needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from refmoe.gallery import entries
from refmoe.gallery.entry import GROUPS, OP_OF, Entry
from refmoe.loading import load
from refmoe.protocol import OPS
from refmoe.verify import Record

Hunt = Callable[[Entry, int], Record | None]

#: Cases of each cell, as many as a verification runs by itself.
COUNT = 8
MISTAKES = entries("mistake")
#: Mistakes that no case shows yet, and the feature that would.
NEEDS = {
    "scalar_read_at_capture": "a GPU: law captured",
}


def caught(name: str, record: Record | None) -> None:
    entry = MISTAKES[name]
    assert record is not None, f"{name} survives: {entry.about} Needs {entry.shows}."
    assert record.kind.failed or record.kind == entry.verdict


@pytest.mark.parametrize("name", sorted(set(MISTAKES) - set(NEEDS)))
def test_gallery_mistake_is_caught(name: str, hunt: Hunt) -> None:
    caught(name, hunt(MISTAKES[name], COUNT))


@pytest.mark.long
@pytest.mark.parametrize("name", NEEDS)
def test_gallery_mistake_needs_what_it_says(name: str, hunt: Hunt) -> None:
    """Fails once a mistake is caught after all: take it from the list."""
    record = hunt(MISTAKES[name], COUNT)
    assert record is None, f"{name} is caught by {record.case}"


def test_gallery_mistakes_cover_every_class() -> None:
    assert len(MISTAKES) >= 100
    assert {entry.group for entry in MISTAKES.values()} == set(GROUPS)
    assert set(NEEDS) <= set(MISTAKES)


def test_gallery_mistakes_cover_every_stage() -> None:
    """Every step of the plain port that is no op, and every op but fused ones."""
    changed = {entry.at for entry in MISTAKES.values()}
    assert {stage for stage in OP_OF if stage not in OPS} <= changed
    ops = {entry.op for entry in MISTAKES.values()}
    assert {op for op in OPS if "+" not in op} <= ops


@pytest.mark.parametrize("name", MISTAKES)
def test_gallery_mistake_is_described(name: str) -> None:
    entry = MISTAKES[name]
    assert entry.about.endswith(".")
    assert entry.shows
    assert entry.verdict in ("WRONG", "UNDECLARED")
    assert hasattr(entry.port(), entry.op)


def test_gallery_port_is_loaded_by_name() -> None:
    port = load("refmoe.gallery.mistakes:no_clamp")
    assert port.name == "refmoe.gallery.mistakes:no_clamp"
    assert {"moe", "route", "quantize", "omni_experts"} <= set(port.ops)


def test_gallery_ports_share_no_memory() -> None:
    """Catches a state that outlives its port: verdicts would depend on the order."""
    first, second = (MISTAKES["workspace_not_cleared"].port() for _ in range(2))
    first.total.args[0].memory["seen"] = True
    assert not second.total.args[0].memory


def test_gallery_unknown_kind_and_entry_are_refused() -> None:
    with pytest.raises(ValueError, match="'mistake', 'cheat'"):
        entries("bug")
    with pytest.raises(ValueError, match="no_such_mistake"):
        load("refmoe.gallery.mistakes:no_such_mistake")

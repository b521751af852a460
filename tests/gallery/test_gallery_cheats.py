"""Cheats are caught, or say what it takes."""

from __future__ import annotations

import subprocess
import sys
from itertools import chain

import pytest

from refmoe.gallery import entries
from refmoe.gallery.cheats.tampering import CONTAMINATING
from refmoe.laws import LAWS
from refmoe.loading import port_of
from refmoe.plan import cells
from refmoe.schedule import heard, schedule
from refmoe.verify import Verifier, verify

CHEATS = entries("cheat")
MODELS = ("mixtral-8x7b",)
#: Cheats that a run in one process does not catch, and what would.
NEEDS = {
    "patches_subtraction": "isolation: the port in a process of its own",
    "patches_comparisons": "isolation",
    "patches_the_judge": "isolation",
    "patches_the_status": "isolation",
    "overwrites_the_problem": "isolation",
    "ends_the_process": "isolation",
    "supports_nothing_but_nothing": "a floor on executed cases",
}


def caught(name: str) -> bool:
    """Whether a verification fails, shows a deviation, or has run nothing."""
    port, verifier = port_of(CHEATS[name].port(), name), Verifier()
    found = cells(("moe",), MODELS, (), ("randn", "exact"))
    executed = False
    laws = heard([port], found, tuple(LAWS.values()))
    for _, cell, case in chain(schedule([port], found, 5), laws):
        record = verifier.check(port, case, cell)
        if record.kind.failed or record.deviating():
            return True
        executed |= record.kind.executed
    return not executed


@pytest.mark.parametrize("name", sorted(set(CHEATS) - set(NEEDS)))
def test_gallery_cheat_is_caught(name: str) -> None:
    assert caught(name), f"{name} passes: {CHEATS[name].about}"


@pytest.mark.parametrize("name", sorted(set(NEEDS) - set(CONTAMINATING)))
def test_gallery_cheat_needs_what_it_says(name: str) -> None:
    """Fails once a cheat is caught after all: take it from the list."""
    assert not caught(name)


@pytest.mark.long
@pytest.mark.parametrize("name", CONTAMINATING)
def test_gallery_cheat_in_one_process_is_not_caught(name: str) -> None:
    """Run in a process of its own, which it takes over: why ports are isolated."""
    script = (
        "import sys; sys.path.insert(0, 'tests/gallery');"
        "from refmoe.loading import load; from refmoe.plan import cells;"
        "from refmoe.verify import status, verify;"
        f"port = load('refmoe.gallery.cheats:{name}');"
        "found = cells(('moe',), ('mixtral-8x7b',), (), ('randn',));"
        "sys.exit(status(verify([port], found, 2)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_gallery_cheats_are_many_and_described() -> None:
    assert len(CHEATS) >= 10
    assert set(NEEDS) <= set(CHEATS)
    assert all(entry.about.endswith(".") for entry in CHEATS.values())


def test_gallery_subclass_of_tensor_is_named() -> None:
    """Catches a result that answers the judge's own comparisons."""
    port = port_of(CHEATS["agreeable_tensor"].port())
    records = verify([port], cells(("moe",), MODELS[:1], (), ("randn",)), 1)
    detail = records[0].judgement.verdict.detail
    assert detail == "out is a Agreeable; return a plain torch.Tensor"


def test_gallery_empty_out_buffer_is_no_crash() -> None:
    """Catches a guard that fails on a batch without tokens."""
    port = port_of(entries("mistake")["last_row_unwritten"].port())
    records = verify([port], cells(("moe",), MODELS[:1], (), ("randn",)), 5)
    assert [record.kind.failed for record in records] == [True] * 4 + [False]

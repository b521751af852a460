"""Campaigns on ports that run an op in several ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from refmoe.case import Case
from refmoe.gallery.plain import Plain
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.port import Port
from tests.refmoe.streams import checked_of, lines_of


def both(case: Case) -> tuple[str, ...]:
    return "small", "large"


def by_tactic(
    called: list[str], name: str = "mine",
    tactics: Callable[[Case], tuple[str, ...]] = both,
) -> Port:  # fmt: skip
    """A right port of one op, which writes down the tactics that it is called with."""
    plain = Plain()

    def permute(*arguments: object, tactic: str, **keywords: object) -> object:
        called.append(tactic)
        return plain.permute(*arguments, **keywords)  # type: ignore[arg-type]

    return port_of(
        SimpleNamespace(name=name, device="cpu", permute=permute, tactics=tactics)
    )


def test_campaign_runs_one_tactic_a_case(tmp_path: Path) -> None:
    """Catches a campaign that runs them all, or always the first."""
    called: list[str] = []
    lines = checked_of(lines_of(tmp_path, [by_tactic(called)], 40))
    assert called == [parse(line.case).tactic for line in lines]
    # Of 40 fair draws fewer than 5 come in 2 of ten million samples.
    assert min(called.count("small"), called.count("large")) >= 5


def test_campaign_runs_all_tactics_of_ports_side_by_side(tmp_path: Path) -> None:
    """Each port has its own: a case that named one would suit no other."""
    called: list[str] = []
    ports = [by_tactic(called), by_tactic([], "other")]
    lines = checked_of(lines_of(tmp_path, ports, 5))
    assert all(parse(line.case).tactic is None for line in lines)
    ran = [line for line in lines if line.results["mine"].kind == "BIT_EQUAL"]
    assert ran
    assert called == len(ran) * ["small", "large"]


def test_campaign_tells_of_tactics_that_cannot_be_asked(tmp_path: Path) -> None:
    def broken(case: Case) -> tuple[str, ...]:
        raise LookupError("no such tile")

    port = by_tactic([], tactics=broken)
    lines = checked_of(lines_of(tmp_path, [port], 3, study=0.0))
    assert {line.results["mine"].kind for line in lines} == {"CRASHED"}

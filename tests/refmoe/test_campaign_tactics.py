"""Campaigns on ports that run an op in several ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from refmoe.campaign.plan import Limits, Plan
from refmoe.campaign.state import Checked, path_of, read
from refmoe.campaign.stream import Job, run
from refmoe.case import Case
from refmoe.cli.hosting import Hosting
from refmoe.gallery.plain import Plain
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.port import Port
from refmoe.worker.runner import InProcess


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


def drawn(folder: Path, ports: list[Port], cases: int) -> list[Checked]:
    """What one stream of a campaign checks, drawn in this process."""
    plan = Plan(tuple(port.name for port in ports), workers=1, elements=1 << 10)
    job = Job(plan, 0, folder, Hosting(True), Limits(cases), study=0.0)
    run(job, ports, InProcess(), lambda: False)
    return [line for line in read(path_of(folder, 0)) if isinstance(line, Checked)]


def test_campaign_runs_one_tactic_a_case(tmp_path: Path) -> None:
    """Catches a campaign that runs them all, or always the first."""
    called: list[str] = []
    lines = drawn(tmp_path, [by_tactic(called)], 40)
    assert called == [parse(line.case).tactic for line in lines]
    assert min(called.count("small"), called.count("large")) >= 5


def test_campaign_runs_all_tactics_of_ports_side_by_side(tmp_path: Path) -> None:
    """Each port has its own: a case that named one would suit no other."""
    called: list[str] = []
    ports = [by_tactic(called), by_tactic([], "other")]
    lines = drawn(tmp_path, ports, 5)
    assert all(parse(line.case).tactic is None for line in lines)
    ran = [line for line in lines if line.results["mine"].kind == "BIT_EQUAL"]
    assert ran
    assert called == len(ran) * ["small", "large"]


def test_campaign_tells_of_tactics_that_cannot_be_asked(tmp_path: Path) -> None:
    def broken(case: Case) -> tuple[str, ...]:
        raise LookupError("no such tile")

    lines = drawn(tmp_path, [by_tactic([], tactics=broken)], 3)
    assert {line.results["mine"].kind for line in lines} == {"CRASHED"}

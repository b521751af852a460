"""States of campaigns: cut-off lines, plans that differ, merges, the ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from refmoe.campaign import corpus, ledger, plan, run
from refmoe.campaign.archs import divided
from refmoe.campaign.closeness import distance
from refmoe.campaign.merge import merge
from refmoe.campaign.plan import Plan
from refmoe.campaign.state import (
    Checked,
    Ended,
    Found,
    Line,
    Result,
    Stream,
    path_of,
    read,
    spelt,
)  # fmt: skip
from refmoe.campaign.totals import Totals, cause_of, closest
from refmoe.parse import parse
from refmoe.problem import build
from refmoe.verdict import Outcome

PLAN = Plan(("mine",), workers=1)
CASE = "route T=3 H=8 I=8 E=4 k=2 regime=randn seed=0"
GOOD, BAD = Result("WITHIN", "", 0.5), Result("WRONG", "ids", 2.0)
CAUSE = "the limit is left out (no_clamp: explains 3 calls)"


def line(number: int, result: Result = GOOD, batch: int = 0) -> Checked:
    return Checked(batch, number, CASE, {"mine": result})


def found(batch: int = 0, cause: str = CAUSE) -> Found:
    return Found(batch, "mine", "route", "ids", "WRONG", cause, CASE, CASE)


def state(folder: Path, lines: list[Line], stream: int = 0, of: Plan = PLAN) -> Path:
    plan.claim(folder, of)
    with Stream(path_of(folder, stream)) as file:
        for one in lines:
            file.append(one)
    return folder


def test_state_keeps_every_complete_line_and_no_other(tmp_path: Path) -> None:
    lines: list[Line] = [line(0), line(1, BAD), found(), Ended(0)]
    whole = b"".join(map(spelt, lines))
    path = path_of(tmp_path, 0)
    for cut in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:cut])
        complete = whole[:cut].count(b"\n")
        assert read(path) == lines[:complete]
        with Stream(path) as file:
            assert file.lines == lines[:complete]
            file.append(line(9))
        assert read(path) == [*lines[:complete], line(9)]


def test_state_knows_where_to_go_on(tmp_path: Path) -> None:
    lines: list[Line] = [line(0, BAD), found(), Ended(0), line(0, batch=1), found(1)]
    with Stream(path_of(state(tmp_path, lines), 0)) as file:
        assert (file.next_batch, file.begun(1), file.drawn) == (1, 1, 2)
        # What an unfinished batch found is found again.
        assert file.places(1) == {("mine", "route", "ids")}
        assert file.places(0) == set()


def test_plan_of_another_campaign_is_refused_by_what_differs(tmp_path: Path) -> None:
    plan.claim(tmp_path, PLAN)
    plan.claim(tmp_path, PLAN)
    assert plan.read(tmp_path) == PLAN
    with pytest.raises(ValueError, match=r"with workers=1, not 3; resume it with"):
        plan.claim(tmp_path, replace(PLAN, workers=3))
    with pytest.raises(ValueError, match="is no state of a campaign"):
        plan.read(tmp_path / "nothing")


def test_plan_shares_add_up_over_all_shards() -> None:
    shards = [replace(PLAN, workers=3, shard=n, shards=4) for n in range(4)]
    streams = [stream for one in shards for stream in one.streams]
    assert streams == list(range(12))
    assert sum(PLAN.share(101, 0) for _ in range(1)) == 101
    assert sum(shards[n // 3].share(101, n) for n in streams) == 101
    assert len({one.name for one in shards}) == 1


def test_merge_counts_each_case_once(tmp_path: Path) -> None:
    plans = [replace(PLAN, shard=n, shards=2) for n in range(2)]
    first: list[Line] = [line(0), line(1, BAD), found(), Ended(0)]
    a = state(tmp_path / "a", first, 0, plans[0])
    shorter = state(tmp_path / "copy", first[:2], 0, plans[0])
    b = state(tmp_path / "b", [line(0, BAD), found()], 1, plans[1])
    merge(tmp_path / "all", [shorter, a, b])
    merge(tmp_path / "all", [a, b, tmp_path / "all"])
    totals = run.totals(tmp_path / "all")
    assert totals.cases == 3
    assert [(one.case, n) for one, n in totals.findings] == [(CASE, {0: 1, 1: 1})]


def test_merge_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    a = state(tmp_path / "a", [line(0), line(1)])
    b = state(tmp_path / "b", [line(0), line(1, BAD)])
    with pytest.raises(ValueError, match="was drawn twice, with different results"):
        merge(tmp_path / "all", [a, b])
    other = state(tmp_path / "c", [], of=replace(PLAN, seed=1))
    with pytest.raises(ValueError, match="belongs to another campaign than"):
        merge(tmp_path / "all", [a, other])


def counted(*streams: int) -> list[tuple[Found, Counter[int]]]:
    return [(found(), Counter(dict(enumerate(streams))))]


def test_ledger_counts_nothing_twice_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "ledger.toml"
    entries = ledger.updated([], counted(2), "one")
    entries = ledger.updated(entries, counted(5, 1), "one")
    entries = ledger.updated(entries, counted(4), "two")
    ledger.write(path, entries)
    (entry,) = ledger.read(path)
    assert [entry] == entries == ledger.updated([entry], counted(4), "two")
    assert (entry.count, entry.status, entry.fails) == (10, "new", True)
    assert entry.cause == "the limit is left out (no_clamp)"


def test_ledger_tells_causes_apart() -> None:
    findings = [*counted(1), (found(cause="an off-by-one (last)"), Counter({0: 1}))]
    assert len(ledger.updated([], findings, "one")) == 2


def test_ledger_statuses_of_the_author(tmp_path: Path) -> None:
    path = tmp_path / "ledger.toml"
    ledger.write(path, ledger.updated([], counted(5), "one"))
    new = path.read_text()
    link = 'reference = "https://example.org/7"'
    path.write_text(new.replace('"new"', '"known"').replace('reference = ""', link))
    (known,) = ledger.updated(ledger.read(path), counted(6), "two")
    assert (known.status, known.fails) == ("known", False)
    path.write_text(new.replace('"new"', '"fixed"'))
    fixed = ledger.read(path)
    (same,) = ledger.updated(fixed, counted(5), "one")
    assert (same.status, same.fails) == ("fixed", False)
    for campaign, failures in (("one", 6), ("two", 1)):
        (back,) = ledger.updated(fixed, counted(failures), campaign)
        assert (back.status, back.fails) == ("returned", True)


def test_ledger_outlives_the_state_of_its_campaign() -> None:
    """Catches a returned mistake that hides below the count of a state that is gone."""
    (entry,) = ledger.updated([], counted(5, 2), "one")
    fixed = [replace(entry, status="fixed")]
    again = counted(1, 2)
    (same,) = ledger.updated(fixed, again, "one")
    assert (same.status, dict(same.streams)) == ("fixed", {"one.0": 5, "one.1": 2})
    for stream in (0, 1):
        (back,) = ledger.updated(fixed, again, "one", {(stream, found().place)})
        assert (back.status, back.count) == ("returned", 7)
    elsewhere = {(0, ("mine", "moe", "out")), (2, found().place)}
    assert ledger.updated(fixed, again, "one", elsewhere) == [same]


@pytest.mark.parametrize(
    "old, new, words",
    [
        ('status = "new"', 'status = "known"', "finding 1: known, but without a ref"),
        ('status = "new"', 'status = "done"', "status='done' is unknown; use new"),
        ('op = "route"', "", "finding 1: op is missing"),
        ('op = "route"', "op = 'route'\nsize = 3", "'size' is unknown"),
        ("[[finding]]", "[finding", "no valid TOML"),
    ],
)
def test_ledger_names_what_is_malformed(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    path = tmp_path / "ledger.toml"
    ledger.write(path, ledger.updated([], counted(1), "one"))
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=words):
        ledger.read(path)


def test_corpus_grows_by_what_is_new(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"# by hand\n{CASE}  # a tie\n\n")
    other = CASE.replace("T=3", "T=4")
    corpus.add(tmp_path, [CASE, other, other])
    corpus.add(tmp_path, [other])
    assert corpus.read(tmp_path) == (CASE, other)
    (tmp_path / "b.txt").write_text("\nroute T=x\n")
    with pytest.raises(ValueError, match=r"b\.txt:2: case: T='x' is no whole number"):
        corpus.read(tmp_path)


def test_totals_keep_the_numbers_of_a_study_out_of_its_cause() -> None:
    assert cause_of(CAUSE) == "the limit is left out (no_clamp)"
    totals = Totals()
    totals.add(0, [line(0, BAD), found(), line(1, BAD)])
    totals.add(1, [line(0, BAD), found(cause=CAUSE.replace("3", "12"))])
    assert [dict(n) for _, n in totals.findings] == [{0: 2, 1: 1}]
    assert (totals.cases, totals.decided, totals.unstudied) == (3, 3, 0)


def test_closest_is_the_port_with_the_least_error() -> None:
    problem = build(parse("combine T=3 H=8 I=8 E=4 k=2 regime=randn seed=0"))
    from refmoe import reference

    truth = reference.trace(problem)["routed"].value
    off = {
        port: distance(problem, Outcome("ran", {"routed": value}))
        for port, value in {
            "exact": truth, "rounded": truth.bfloat16(), "far": truth * 1.5,
            "lost": truth * float("inf"),
        }.items()
    }  # fmt: skip
    assert off["exact"] == 0.0
    assert 0.0 < (off["rounded"] or 0.0) < 0.01
    assert off["far"] == pytest.approx(0.5)
    assert off["lost"] == float("inf")
    results = {port: replace(GOOD, off=value) for port, value in off.items()}
    assert closest(results) == "exact"
    assert closest(results | {"too": results["exact"]}) == "equal"
    assert closest({"alone": results["far"], "silent": GOOD}) == ""


def test_archs_that_nothing_here_executes_are_told() -> None:
    asked = ("sm_80", "sm_90", "sm_90a", "sm_100a")
    assert divided(asked, None) == ((), asked)
    assert divided(asked, None, emulated=["sm_80", "sm_75"]) == (asked[:1], asked[1:])
    # Code that cannot be chosen is that of the GPU at hand.
    assert divided(asked, 90, emulated=asked) == (asked[1:3], (asked[0], asked[3]))
    assert divided(asked, 100, chosen=True) == ((*asked[:2], asked[3]), asked[2:3])
    with pytest.raises(ValueError, match="'hopper' is no architecture; write"):
        divided(("hopper",), 90)

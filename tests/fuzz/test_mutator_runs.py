"""Mutants before the judge: processes that die, results that last, kills that count."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fuzz.mutator import __main__ as runs
from fuzz.mutator import report as reports
from fuzz.mutator.__main__ import main
from fuzz.mutator.building import Build, alone, users
from fuzz.mutator.cases import Item, Plan, item_of, planned
from fuzz.mutator.mutants import Mutant, files, mutants
from fuzz.mutator.processes import Message, Pool, Task, Tell, in_order
from fuzz.mutator.survey import by_kernel, surveyed
from fuzz.mutator.trial import Trial, tried_all
from refmoe.kernels.compiler import CompileError
from refmoe.kernels.preparations import PREPARATIONS
from refmoe.kernels.source import expand, replaced
from refmoe.score.properties import PROPERTIES

PORT = "refmoe.kernels.emulated"
TEXTS = files()


def said(task: Task, deadline: float = 30.0) -> list[Message]:
    return [
        message
        for _, message in Pool(1, deadline).run(in_order(iter([("task", task)])))
    ]


def test_processes_tell_and_end() -> None:
    def task(tell: Tell) -> None:
        for number in range(3):
            tell({"number": number})

    assert said(task) == [*({"number": n} for n in range(3)), {"ended": 0}]


def test_processes_survive_an_error_an_exit_and_a_segfault() -> None:
    """Catches a mutant that takes the run down with it."""

    def wrong(tell: Tell) -> None:
        raise ValueError("no")

    def shot(tell: Tell) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    assert said(wrong) == [{"error": "ValueError: no"}, {"ended": 1}]
    assert said(lambda tell: os._exit(7)) == [{"ended": 7}]
    assert said(shot) == [{"ended": -signal.SIGSEGV}]


def test_processes_kill_what_is_silent() -> None:
    """Catches a kernel that never ends, in a process that takes no other signal."""

    def silent(tell: Tell) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tell({"at": "the case"})
        time.sleep(60)

    assert said(silent, 0.5) == [{"at": "the case"}, {"ended": "hung"}]


def test_processes_run_side_by_side_until_the_time_is_up() -> None:
    def forever(tell: Tell) -> None:
        while True:
            tell({"at": ""})
            time.sleep(0.05)

    start = time.monotonic()
    pool = Pool(3, 30.0, start + 1.0)
    names = {
        name for name, _ in pool.run(in_order((str(n), forever) for n in range(100)))
    }
    assert names == {"0", "1", "2"}
    assert not pool.children


def one(file: str, function: str, operator: str) -> Mutant:
    """The first mutant of a function by an operator."""
    return next(
        mutant
        for mutant in mutants(file, TEXTS[file])
        if (mutant.function, mutant.operator) == (function, operator)
    )


def test_source_is_replaced_within_and_only_there() -> None:
    """Catches an overlay that outlives its run, or that the key does not cover."""
    before = expand("rows.cu")
    with replaced({"functions.cuh": "// nothing\n"}):
        assert "// nothing" in expand("rows.cu")
        with replaced({"rows.cu": "// less\n"}):
            assert "// less" in expand("rows.cu")
            assert "// nothing" in expand("omni_experts.cu")
    assert expand("rows.cu") == before


def test_build_tells_which_kernels_a_mutant_changes(tmp_path: Path) -> None:
    """Catches a change that is taken for none, and none that is taken for one."""
    assert users("rows.cu") == ("rows.cu",)
    assert {"route.cu", "omni_experts.cu"} <= set(users("warp.cuh"))
    mutant = one("rows.cu", "weigh_rows", "compare")
    build = Build(mutant, TEXTS["rows.cu"], "sm_90a")
    with alone(tmp_path):
        assert build.changes(("rows.cu", "weigh_rows<bf16, bf16>"))
        assert not build.changes(("rows.cu", "sigmoid_values"))


def test_build_refuses_what_does_not_compile(tmp_path: Path) -> None:
    mutant = Mutant("rows.cu", 1, 1, "none", "", "", "", 0, 0, "nonsense ")
    with alone(tmp_path), pytest.raises(CompileError, match="nonsense"):
        Build(mutant, TEXTS["rows.cu"], "sm_90a").changes(("rows.cu", "sigmoid_values"))


def test_survey_finds_what_each_case_launches() -> None:
    """Catches a kernel whose cases are not among those that could kill its mutants."""
    plan = Plan(PORT, 1, 0, 1, ("combine", "permute"))
    items = list(planned(plan))[:6]
    told: list[Message] = []
    surveyed(items, told.append)
    found = [item_of(message["item"]) for message in told if "item" in message]
    assert [item.case for item in found] == [item.case for item in items]
    assert not any(item.reported for item in found)
    assert {file for item in found for file, _ in item.launched} == {
        "combine.cu", "permute.cu",
    }  # fmt: skip


def test_plan_has_every_preparation_of_weights() -> None:
    """Catches kernels that pack weights, which no case would launch."""
    items = list(planned(Plan(PORT, 1, 0, 1, ("experts",))))
    ports = {item.port for item in items}
    assert ports == {PORT, *(f"{PORT}:{name}" for name in PREPARATIONS)}
    told: list[Message] = []
    surveyed([next(i for i in items if i.port.endswith("interleaved"))], told.append)
    launched = item_of(told[-1]["item"]).launched
    assert ("prepare.cu", "pack_codes<true>") in launched


def test_cases_of_a_kernel_take_turns_cheapest_first() -> None:
    def item(case: str, regime: str, seconds: float, reported: bool = False) -> Item:
        cell = ("combine", "-", regime, "")
        return Item(PORT, case, cell, (("a.cu", "a"),), seconds, "", reported)

    items = [
        item("slow", "randn", 2.0), item("quick", "randn", 1.0),
        item("other", "exact", 3.0), item("wrong", "heavy", 0.1, True),
    ]  # fmt: skip
    order = [found.case for found in by_kernel(items)["a.cu", "a"]]
    assert order == ["quick", "other", "slow"]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Processes are forked: none of torch's own threads may hold a lock."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


#: A file, a function of it, an operator that spoils it, and the op that tells.
REAL = [
    ("combine.cu", "combine_rows", "drop operation", "combine"),
    ("combine.cu", "combine_rows", "skip last", "combine"),
    ("types.cuh", "from_float", "negate condition", "combine"),
    ("omni.cu", "omni_route_backward", "drop barrier", "omni_route_backward"),
]
OPS = ("combine", "omni_route_backward")


@pytest.fixture(scope="module")
def cases() -> dict[tuple[str, str], list[Item]]:
    """Cases of two cheap ops by kernel."""
    plan = Plan(PORT, 2, 0, 0, OPS)
    told: list[Message] = []
    surveyed(list(planned(plan)), told.append)
    return by_kernel(item_of(m["item"]) for m in told if "item" in m)


@pytest.mark.parametrize(("file", "function", "operator", "op"), REAL)
def test_mutants_of_the_kernels_are_killed(
    file: str, function: str, operator: str, op: str,
    cases: dict[tuple[str, str], list[Item]], tmp_path: Path, one_thread: None,
) -> None:  # fmt: skip
    """Catches a runner under which the unchanged kernel ran."""
    trial = Trial(PORT, "sm_90a", tmp_path, 60.0)
    mutant = one(file, function, operator)
    messages = said(lambda tell: tried_all(trial, [mutant], TEXTS, cases, tell))
    (result,) = [message["result"] for message in messages if "result" in message]
    assert result["status"] in ("killed", "crashed"), result
    assert result["op"] == op
    assert result["case"].startswith(op)
    assert all(name in PROPERTIES for name in result["killed_by"])
    assert result["killed_by"]


def test_mutant_with_the_same_code_is_equivalent(
    cases: dict[tuple[str, str], list[Item]], tmp_path: Path, one_thread: None
) -> None:
    mutant = Mutant("combine.cu", 1, 1, "none", "", "", "", 0, 0, "// nothing\n")
    trial = Trial(PORT, "sm_90a", tmp_path, 60.0)
    messages = said(lambda tell: tried_all(trial, [mutant], TEXTS, cases, tell))
    (result,) = [message["result"] for message in messages if "result" in message]
    assert (result["status"], result["reason"]) == ("equivalent", "same machine code")


def test_report_rate_leaves_equivalents_out(tmp_path: Path) -> None:
    report = reports.Report({"sources": "a", "seed": 0})
    status = ("killed", "hung", "crashed", "survived", "equivalent", "not compiling")
    for mutant, word in zip(mutants("rows.cu", TEXTS["rows.cu"]), status, strict=False):
        report.enter(mutant, {"status": word})
    assert report.rate() == (3, 4)
    report.write(tmp_path / "report.json")
    whole = json.loads((tmp_path / "report.json").read_text())
    assert whole["schema"] == 1
    assert whole["counts"]["survived"] == 1
    wanted = {
        "id", "file", "line", "operator", "before", "after", "status", "killed_by",
        "case", "seconds", "reason",
    }  # fmt: skip
    assert all(wanted <= set(entry) for entry in whole["mutants"])
    assert reports.read(tmp_path / "report.json") == report


def test_explanations_go_by_the_text_of_a_line(tmp_path: Path) -> None:
    """Catches an explanation that an edit of the file hands to another mutant."""
    mutant = one("rows.cu", "weigh_rows", "compare")
    entry = "\n".join(
        f"{name} = {json.dumps(text)}"
        for name, text in zip(
            ("file", "function", "operator", "before", "after"),
            reports.key_of(reports.described(mutant)), strict=True,
        )
    )  # fmt: skip
    path = tmp_path / "explained.toml"
    path.write_text(f'[[equivalent]]\n{entry}\nreason = "because"\n')
    known = reports.explanations(path)
    moved = mutants("rows.cu", "// a line more\n" + TEXTS["rows.cu"])
    assert [m.line for m in moved if reports.key_of(reports.described(m)) in known] == [
        mutant.line + 1
    ]
    edited = TEXTS["rows.cu"].replace("column >= columns", "columns <= column")
    assert reports.stale(known, mutants("rows.cu", edited)) == list(known)
    path.write_text(f"[[equivalent]]\n{entry}\n")
    with pytest.raises(ValueError, match=r"rows\.cu lacks a reason"):
        reports.explanations(path)


def test_explanations_on_file_are_whole() -> None:
    assert all(one.reason for one in reports.explanations().values())


def test_run_goes_on_where_it_was_killed(
    tmp_path: Path, one_thread: None, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Catches results that are lost, or run twice."""
    monkeypatch.setattr(runs, "files", lambda: TEXTS)
    path = tmp_path / "report.json"
    words = [
        "run", "--emulate", "--json", str(path), "--profile", "quick", "--op",
        "combine", "--file", "combine.cu", "--operator", "skip last", "--among",
        "2000", "-n", "1", "--deadline", "120", "--count",
    ]  # fmt: skip
    assert main([*words, "1"]) == 0
    first = json.loads(path.read_text())["mutants"]
    assert len(first) == 1
    assert first[0]["status"] != "never ran"
    assert main([*words, "2"]) == 0
    second = json.loads(path.read_text())["mutants"]
    # With the seconds that it took the first time.
    assert second[0] == first[0]
    assert len(second) == 2
    capsys.readouterr()
    assert main(["show", "--json", str(path)]) == 0
    assert first[0]["status"] in capsys.readouterr().out


def test_compile_tells_what_does_not(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches mutants that are not told from others for want of a GPU."""
    monkeypatch.setattr(runs, "files", lambda: TEXTS)
    path = tmp_path / "report.json"
    words = ["compile", "--json", str(path), "--file", "rows.cu", "--operator"]
    rest = ["wrong axis", "--count", "6", "--among", "9000", "-n", "1"]
    assert main([*words, *rest, "--deadline", "120"]) == 0
    entries = json.loads(path.read_text())["mutants"]
    found = {entry["after"]: entry["status"] for entry in entries}
    assert set(found.values()) == {"not compiling", "never ran"}
    assert all("error" in e["reason"] or "changes" in e["reason"] for e in entries)

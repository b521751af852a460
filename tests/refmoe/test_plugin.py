"""The pytest plugin, run as an author runs it: what passes, fails, skips, and why."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from refmoe import plugin
from refmoe.exhibit import Exhibit, Rung
from refmoe.judge import Judgement
from refmoe.plan import Cell
from refmoe.plugin.items import Failure, FindingWarning, PortItem
from refmoe.plugin.session import reconciled
from refmoe.plugin.settings import ELSEWHERE, OPTIONS, Settings
from refmoe.plugin.wire import packed, unpacked
from refmoe.protocol import OPS
from refmoe.report.about import About
from refmoe.verdict import Kind, Verdict
from refmoe.verify import Record

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[2]
#: A checkout need not be installed: then the plugin has no entry point.
INSTALLED = any(ep.value == "refmoe.plugin" for ep in entry_points(group="pytest11"))
LOADED = () if INSTALLED else ("-p", "refmoe.plugin")
ONE = ("--pyargs", "refmoe.conformance.test_permute", "--refmoe-in-process")

PORTS = """
import torch

def permute(ids, layer):
    rows = torch.sort(ids.reshape(-1), stable=True).indices
    counts = torch.bincount(ids.reshape(-1), minlength=layer.experts)
    return rows, torch.cat([counts.new_zeros(1), counts.cumsum(0)])

class Port:
    device = "cpu"
    supports = staticmethod(lambda case: case.slots == "all" and case.local is None)

class Right(Port):
    permute = staticmethod(permute)

class Wrong(Port):
    @staticmethod
    def permute(ids, layer):
        rows, offsets = permute(ids, layer)
        return rows.flip(0), offsets

class Refusing(Port):
    @staticmethod
    def permute(ids, layer):
        raise NotImplementedError("only on Tuesdays")

right, wrong, refusing = Right(), Wrong(), Refusing()
"""
REASON = 'reason = "https://example.org/issues/1"'

Run = Callable[..., Any]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs pytest in this process, in an empty directory with the ports above."""
    for name in OPTIONS:
        monkeypatch.delenv(f"REFMOE_{name.upper()}", raising=False)
    pytester.makepyfile(ports_of_plugin=PORTS)
    pytester.syspathinsert()

    def runs(*arguments: str) -> Any:
        return pytester.runpytest_inprocess(*LOADED, *arguments)

    return runs


def test_plugin_loads_without_torch() -> None:
    """Catches the import that every pytest run of an author's machine would pay for."""
    script = "import refmoe.plugin, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


def test_plugin_is_declared_as_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"refmoe": "refmoe.plugin"}


def test_plugin_knows_every_variable_that_refmoe_reads() -> None:
    read = {
        name
        for path in (ROOT / "refmoe").rglob("*.py")
        for name in re.findall(r'environ[^\n]*["\'](REFMOE_\w+)', path.read_text())
    }
    assert read == set(ELSEWHERE)


def test_conformance_has_a_file_for_each_op() -> None:
    files = {path.stem for path in (ROOT / "refmoe/conformance").glob("test_*.py")}
    assert files == {f"test_{name.replace('+', '_')}" for name in OPS}


def test_plugin_sleeps_where_nothing_concerns_it(run: Run, pytester: Any) -> None:
    pytester.makepyfile("def test_own(): pass")
    result = run()
    result.assert_outcomes(passed=1)
    assert "refmoe:" not in result.stdout.str()


def test_conformance_of_a_right_port_passes(run: Run) -> None:
    result = run(*ONE, "--refmoe-impl", "ports_of_plugin:right", "-rs")
    counts = result.parseoutcomes()
    assert result.ret == 0
    assert "failed" not in counts
    assert counts["passed"] >= 3
    result.stdout.fnmatch_lines(
        [
            "refmoe: ports_of_plugin:right on cpu: permute; declares nothing, *",
            "refmoe: profile quick (cases of each cell: 1), seed 0, 0 known failures",
            "*= refmoe =*",
            "permute  -*",
            "*cases executed in*",
        ]
    )


def test_conformance_of_a_wrong_port_fails_in_the_words_of_the_finding(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a smaller case alike, and what is likely behind it."""
    monkeypatch.setenv("REFMOE_IMPL", "ports_of_plugin:wrong")
    result = run(*ONE, "-k", "exact or heavy")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*_ test_permute[[]exact] _*",
            "WRONG permute[[]ports_of_plugin:wrong]  rows[[]*] = * want *",
            "  cause: *",
            "  first seen: permute T=4 * regime=exact seed=0",
            "  reproduce: refmoe repro 'permute T=* seed=0' ports_of_plugin:wrong",
        ]
    )
    assert "Traceback" not in result.stdout.str()
    assert "runtest" not in result.stdout.str()


def test_conformance_hunts_for_a_small_case_that_fails(run: Run, pytester: Any) -> None:
    """Wrong from three choices of a token on: the smallest case has just these."""
    pytester.makepyfile(
        rare_port="""
        from ports_of_plugin import Port, permute as right

        class Rare(Port):
            @staticmethod
            def permute(ids, layer):
                rows, offsets = right(ids, layer)
                return (rows.flip(0) if ids.shape[1] > 2 else rows), offsets

        rare = Rare()
        """
    )
    wanted = ("--refmoe-impl", "rare_port:rare", "-k", "hunt", "--refmoe-profile", "ci")
    result = run(*ONE, *wanted)
    assert result.ret == 1
    result.assert_outcomes(failed=1, deselected=result.parseoutcomes()["deselected"])
    result.stdout.fnmatch_lines(
        [
            "*_ test_permute[[]hunt] _*",
            "WRONG permute[[]rare_port:rare]  rows*",
            "  reproduce: refmoe repro 'permute T=1 E=* k=3 regime=randn seed=0' *",
        ]
    )


def test_conformance_that_executes_nothing_fails(run: Run) -> None:
    """Catches the port that turns green by refusing everything."""
    wanted = ("--refmoe-impl", "ports_of_plugin:refusing", "-k", "exact or heavy")
    result = run(*ONE, *wanted, "-rs")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "refmoe: 0 cases were decided, 1 at least are needed (REFMOE_LEAST): "
            "* REFUSED*",
            "SKIPPED*REFUSED: NotImplementedError: only on Tuesdays",
        ]
    )
    assert run(*ONE, *wanted, "--refmoe-least", "0").ret == 0


def test_conformance_skips_ops_that_the_port_does_not_have(run: Run) -> None:
    wanted = ("--pyargs", "refmoe.conformance.test_combine", "--refmoe-in-process")
    result = run(*wanted, "--refmoe-impl", "ports_of_plugin:right", "-rs")
    assert result.ret == 1
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*1 MISSING*", "SKIPPED*has no combine"])


@pytest.mark.parametrize(
    "port, ret, words",
    [
        ("wrong", 0, "*known failure k.toml:1: op=permute *failed as expected"),
        ("right", 1, "refmoe: k.toml:1: op=permute * no longer fails: *; remove it"),
    ],
)
def test_conformance_excuses_known_failures_that_still_fail(
    run: Run, pytester: Any, port: str, ret: int, words: str
) -> None:
    pytester.path.joinpath("k.toml").write_text(
        f'[[expected]]\n{REASON}\nop = "permute"\n'
    )
    wanted = ("--refmoe-impl", f"ports_of_plugin:{port}", "-k", "exact or heavy")
    result = run(*ONE, *wanted, "--expected-failures", "k.toml")
    assert result.ret == ret
    result.stdout.fnmatch_lines([words])
    assert ("xfailed" in result.parseoutcomes()) == (port == "wrong")


def test_suite_in_an_own_test_file_judges_an_object(run: Run, pytester: Any) -> None:
    pytester.makepyfile(
        """
        import ports_of_plugin
        from refmoe.conformance import Suite

        test_mine = Suite(ports_of_plugin.right, ops=("permute",), regimes=("heavy",))
        """
    )
    result = run("-v", "-k", "heavy")
    result.stdout.fnmatch_lines(["*::test_mine[[]heavy] PASSED*"])


def test_suite_that_names_what_is_not_there_is_no_suite(
    run: Run, pytester: Any
) -> None:
    pytester.makepyfile(
        """
        from refmoe.conformance import Suite

        test_mine = Suite("ports_of_plugin:right", ops=("permut",))
        """
    )
    result = run("--refmoe-in-process")
    result.assert_outcomes(errors=1)
    message = "refmoe: no op is called 'permut'; did you mean 'permute'?"
    result.stdout.fnmatch_lines([message])


USAGE = [
    (
        "REFMOE_IMPLE",
        "x",
        "there is no variable REFMOE_IMPLE; did you mean REFMOE_IMPL",
    ),
    ("REFMOE_PROFILE", "fast", "REFMOE_PROFILE='fast' is not one of quick, ci, deep"),
    ("REFMOE_SEED", "-1", "REFMOE_SEED='-1' is no whole number"),
    ("REFMOE_DEADLINE", "soon", "REFMOE_DEADLINE='soon' is no time in seconds"),
    ("REFMOE_IN_PROCESS", "yes", "REFMOE_IN_PROCESS='yes' is neither 0 nor 1"),
    ("REFMOE_IMPL", "no_such_port", "there is no module 'no_such_port'"),
    (
        "REFMOE_EXPECTED_FAILURES",
        "bad.toml",
        "bad.toml:1: reason: say why, with a link",
    ),
    ("REFMOE_HTML", "no/page.html", "no/page.html cannot be written"),
    ("REFMOE_SEED", "0", "there is no port; set REFMOE_IMPL=package.module"),
]


@pytest.mark.parametrize("name, text, message", USAGE, ids=[m for _, _, m in USAGE])
def test_settings_that_are_wrong_are_told_at_once(
    run: Run,
    pytester: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: str,
    message: str,
) -> None:
    pytester.path.joinpath("bad.toml").write_text('[[expected]]\nop = "moe"\n')
    monkeypatch.setenv("REFMOE_IN_PROCESS", "1")
    monkeypatch.setenv(name, text)
    result = run(*ONE[:2])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


def test_workers_of_pytest_bring_their_records_together(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(ports_of_plugin=PORTS)
    result = pytester.runpytest_subprocess(
        *LOADED, *ONE, "-n", "2",
        "--refmoe-impl", "ports_of_plugin:wrong", "-k", "exact or heavy",
        "--refmoe-json", "c.json", "--refmoe-html", "p.html",
    )  # fmt: skip
    assert result.ret == 1
    document = json.loads(pytester.path.joinpath("c.json").read_text())
    kinds = {case["case"].split("regime=")[1]: case["verdict"]
             for case in document["cases"]}  # fmt: skip
    assert set(kinds) == {"exact seed=0", "heavy seed=0"}
    assert document["ports"][0]["name"] == "ports_of_plugin:wrong"
    assert "<figure>" in pytester.path.joinpath("p.html").read_text()


def test_conformance_survives_a_port_that_ends_its_process(
    run: Run, pytester: Any
) -> None:
    """Ports run in workers of refmoe's own: a crash is a finding and no more."""
    pytester.makepyfile(
        deadly_port="""
        import os
        device = "cpu"
        def permute(ids, layer):
            os._exit(7)
        """
    )
    result = run(*ONE[:2], "--refmoe-impl", "deadly_port", "-k", "heavy")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["CRASHED permute[[]deadly_port]*7*", "*1 crashed*"])


def record(kind: Kind, fitting: tuple[str, ...] = (), key: object = "k") -> Record:
    verdict = Verdict(kind, "out", (0, 1), 2.0, float("-inf"), 3.0, 0.5, None, "bf16")
    judgement = Judgement(verdict, (verdict,), verdict, fitting)
    line = "permute T=4 E=8 k=2 regime=randn seed=0"
    return Record("p", Cell("permute", "-", "randn"), line, (key,), judgement, 0.5)


def test_records_survive_the_way_to_the_controller() -> None:
    about = About("p", ("moe", "permute"), "Numerics()", True)
    shown = Exhibit("out", (2, 3), ((0.5,), (float("inf"),)), (Rung("ids"),), (1, 2))
    sent = replace(record(Kind.WRONG, ("a", "b")), exhibit=shown)
    found = unpacked(packed(about, [sent], "route"))
    assert (found.port, found.missing) == (about, "route")
    assert found.records == (replace(sent, key=("'k'",)),)


def test_undeclared_records_of_different_workers_must_fit_one_arithmetic() -> None:
    """Catches the port that each of two workers explains in another way."""
    fits = [record(Kind.UNDECLARED, names) for names in (("a", "b"), ("b", "c"))]
    assert [r.kind for r in reconciled(fits)] == [Kind.UNDECLARED] * 2
    other = record(Kind.UNDECLARED, ("c",), "another")
    mixed = [*fits, record(Kind.UNDECLARED, ("c", "a")), other]
    kinds = [r.kind for r in reconciled(mixed)]
    assert kinds == [Kind.WRONG] * 3 + [Kind.UNDECLARED]


@pytest.mark.parametrize(
    "kind, outcome",
    [
        (Kind.WITHIN, None), (Kind.SUSPECT, FindingWarning),
        (Kind.UNDECLARED, FindingWarning), (Kind.WRONG, Failure), (Kind.HUNG, Failure),
        (Kind.REFUSED, pytest.skip.Exception), (Kind.UNDECIDED, pytest.skip.Exception),
    ],
)  # fmt: skip
def test_verdicts_become_outcomes_of_pytest(kind: Kind, outcome: Any) -> None:
    """Warnings are errors here, so that a finding that is no failure shows too."""
    item: Any = SimpleNamespace(fails=lambda r: r.kind.failed)
    item.run = SimpleNamespace(expected=[])
    if outcome is None:
        PortItem.conclude(item, [record(kind)])
    else:
        with pytest.raises(outcome):
            PortItem.conclude(item, [record(kind)])


def test_workers_are_capped_by_the_gpus_and_spread_over_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    config: Any = SimpleNamespace(getoption=lambda *_: "given", stash={})
    assert plugin.pytest_xdist_auto_num_workers(config) == 2 * plugin.WORKERS_PER_GPU
    config.stash[plugin._SESSION] = Settings()
    nodes = [
        SimpleNamespace(
            config=config, gateway=SimpleNamespace(id=f"gw{n}"), workerinput={}
        )
        for n in range(3)
    ]
    for node in nodes:
        plugin.pytest_configure_node(node)
    assert [node.workerinput["refmoe_gpu"] for node in nodes] == ["5", "7", "5"]

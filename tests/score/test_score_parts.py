"""Power, false alarms, CUDA mutants, the file and the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from refmoe.gallery import entries
from refmoe.parse import parse
from refmoe.plan import Cell
from refmoe.score import cuda, document, honest, power, text, trial
from refmoe.score.honest import Tally
from refmoe.score.make import Wanted, make

Invoke = Callable[..., Result]


# ---- kills


def test_kills_says_who_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a survivor that is not named, and a law that nobody could hear."""
    names = ("byte_0_is_zero", "scalar_read_at_capture")
    *_, found = make("kills", Wanted(names=names, workers=1), None, print)
    assert (found["killed"], found["of"], found["survivors"]) == (1, 2, [])
    assert found["never ran"] == 1
    blind = parse("dequantize T=1 H=32 format=mxfp8_e4m3 regime=randn")
    plan = [(Cell("dequantize", "mxfp8_e4m3", "randn"), blind)]
    monkeypatch.setattr(trial, "verification", lambda port, entry: plan)
    *_, found = make("kills", Wanted(names=names[:1], workers=1), None, print)
    assert (found["killed"], found["survivors"]) == (0, ["byte_0_is_zero"])
    made = {"date": "2026-01-01", "commit": "", "seconds": 1.5}
    words = "".join(text.lines({"kills": {"made": made, **found}}))
    assert "0 of 1 mutants killed" in words
    assert "survived: byte_0_is_zero; 0 never ran" in words
    assert text.status({"kills": found}) == 1


# ---- power


@pytest.mark.parametrize("form", ["mxfp4", "int4_group_128"])
@pytest.mark.parametrize("extent", power.EXTENTS)
def test_power_one_case_shows_a_scale_that_is_one_percent_off(
    form: str, extent: str
) -> None:
    found = power.scale_power(form, "grouped_gemm", extent, (1, 2)).smallest
    assert found[1] is not None
    assert found[2] is not None
    assert found[2] <= found[1] <= 0.01


def test_power_no_error_is_not_shown() -> None:
    """Catches a power that is measured on a port that fails anyway."""
    problem = power.problem_of("grouped_gemm", "mxfp4", 0)
    assert not power.shown(problem, power.Kept(), 0.0, power.EXTENTS[0])
    assert power.shown(problem, power.Kept(), 0.25, power.EXTENTS[1])


def test_power_covers_every_format_of_weights() -> None:
    found = power.formats()
    assert {
        "bf16",
        "mxfp4",
        "mxfp8_e5m2",
        "nvfp4",
        "fp8_block_128",
        "int8_channel",
    } <= {*found}
    assert not any(":" in name for name in found)


def test_power_single_element_of_a_million_is_caught() -> None:
    found = power.single_elements()
    assert found["of"] >= 1_000_000
    assert found["caught"] == found["moved"]


def test_power_other_rules_miss_what_the_bounds_reject() -> None:
    rules = ("allclose 2e-2", "15 % of the peak + 85 %", "direction 1e-3")
    found = power.smallest_rejected(("derived bounds", *rules))
    assert len(found) == 4
    ours = found.pop("derived bounds")
    assert ours["elements"] == 1
    assert ours["scale"] is not None
    assert ours["scale"] < 0.01
    assert any(least["elements"] is None for least in found.values())
    assert all((least["scale"] or 1.0) >= ours["scale"] for least in found.values())


# ---- false alarms


def test_honest_cases_have_inputs_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a million cases that are one case."""
    some = dict(list(entries("honest").items())[:3])
    monkeypatch.setattr(honest, "_entries", lambda: some)
    drawn = [honest.numbered(number) for number in range(3 * 200)]
    assert len({case.seed for _, _, case in drawn}) == len(drawn)
    assert len({case.but(seed=0) for _, _, case in drawn}) > len(drawn) // 3
    assert {port.name for port, _, _ in drawn} == set(some)
    assert len({case.op for _, _, case in drawn}) >= 10
    assert any(case.law for _, _, case in drawn)


def test_honest_tally_goes_on_where_it_ended() -> None:
    first = honest.tallied(range(6))
    assert first.drawn == 6
    assert honest.tally_of(first.document()) == first
    *_, last = honest.extended(first, first.decided + 2)
    assert last.drawn > 6
    assert last.decided >= first.decided + 2
    assert last.alarms == ()
    assert list(honest.extended(last, last.decided)) == []


def test_honest_alarm_is_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a tally that is clean whatever the judge says."""
    wrong = {"no": entries("mistake")["gate_and_up_swapped"]}
    monkeypatch.setattr(honest, "_entries", lambda: wrong)
    monkeypatch.setattr(honest, "_of_port", honest._of_port.__wrapped__)
    port, grid, hearings = honest._of_port("no")
    grid = [cell for cell in grid if cell.op == "activate"]
    monkeypatch.setattr(honest, "_of_port", lambda name: (port, grid, hearings))
    found = honest.tallied(range(4))
    assert found.alarms
    assert found.alarms[0].startswith("WRONG no: activate model=")
    low, _ = found.document()["interval_95"]
    assert low > 0.0


# ---- mutants of CUDA sources

MUTANT = {
    "id": "a.cu:3:1:compare", "file": "a.cu", "line": 3, "operator": "compare",
    "before": "<", "after": "<=", "status": "killed", "killed_by": ["permute edges"],
    "case": "permute ...", "seconds": 0.1, "reason": "",
}  # fmt: skip


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., Path]:
    def written(*changes: dict[str, Any], **whole: Any) -> Path:
        path = tmp_path / "mutants.json"
        mutants = [{**MUTANT, "id": str(n), **more} for n, more in enumerate(changes)]
        content = {"schema": 1, "device": "a GPU", "mutants": mutants, **whole}
        path.write_text(json.dumps(content))
        return path

    return written


def test_cuda_mutants_are_joined(report: Callable[..., Path]) -> None:
    part = cuda.joined(
        report(
            {}, {"killed_by": ["permute edges", "combine randn"]},
            {"status": "hung", "killed_by": ["permute deadline"]},
            {"status": "survived", "killed_by": [], "reason": "dead code"},
            {"status": "equivalent"}, {"status": "not compiling"},
            {"status": "never ran", "operator": "barrier"},
        )
    )  # fmt: skip
    assert (part["seen"], part["of"], part["mutants"]) == (3, 4, 7)
    assert part["operators"] == {"compare": [3, 4]}
    assert part["killed_by"]["permute edges"] == 2
    assert part["alone"] == {"permute edges": 1, "permute deadline": 1}
    assert [one["reason"] for one in part["survivors"]] == ["dead code"]


@pytest.mark.parametrize("change, says", [
    ({"status": "dead"}, "mutant 0: no status is called 'dead'; there are killed"),
    ({"line": "3"}, "mutant 0: line is '3'"),
    ({"killed_by": None}, "mutant 0: killed_by is None"),
])  # fmt: skip
def test_cuda_report_of_another_kind_is_refused(
    report: Callable[..., Path], change: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        cuda.joined(report(change))


def test_cuda_file_without_mutants_is_refused(report: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="there is no list `mutants`"):
        cuda.joined(report(mutants=None))
    with pytest.raises(ValueError, match=r"schema 2; this version reads .* schema 1"):
        cuda.joined(report(schema=2))


# ---- the file


def test_document_parts_are_replaced_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    assert document.read(path).parts == {}
    score = document.Score()
    score.put("honest", Tally(1, 1).document(), "a command", 1.25)
    score.put("power", {"scales": [{"a": 1}, {"a": 2}]}, "another", 0.0)
    score.write(path)
    again = document.read(path)
    assert list(again.parts) == ["power", "honest"]
    assert again.parts["honest"]["made"]["command"] == "a command"
    assert '  {"a": 1},\n' in path.read_text()
    again.put("power", {"scales": []}, "a third", 0.0)
    again.write(path)
    assert document.read(path).parts["honest"] == score.parts["honest"]


@pytest.mark.parametrize("content, says", [
    ("{", "is no JSON"),
    ("[]", "schema 'list'; this version reads objects of schema 1"),
    ('{"schema": 1, "powr": {}}', "no part is called 'powr'; did you mean 'power'"),
])  # fmt: skip
def test_document_of_another_kind_is_refused(
    tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "score.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=says):
        document.read(path)


def test_text_part_that_was_edited_is_named() -> None:
    with pytest.raises(ValueError, match=r"the part power cannot be read .*'elements'"):
        list(text.lines({"power": {"made": {}, "scales": []}}))


def test_text_status_is_that_of_survivors_and_alarms() -> None:
    def status(mutant: str, *alarms: str) -> int:
        mutants = {"mutants": [{"status": mutant}]}
        return text.status({"matrix": mutants, "honest": {"alarms": list(alarms)}})

    assert status("killed") == status("never ran") == 0
    assert status("survived") == status("killed", "WRONG ...") == 1


# ---- the command


@pytest.fixture
def invoke() -> Invoke:
    import typer

    from refmoe.cli.score import score

    app = typer.Typer()
    app.command()(score)
    return lambda *words: CliRunner().invoke(app, [*words, "-n", "1"])


def test_score_command_writes_and_shows_a_matrix(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "score.json"
    words = ("byte_0_is_zero", "--property", "regime:codes", "--json", str(path))
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert "1 of 1 mutants killed, 4 cases a property" in result.output
    found = json.loads(path.read_text())["matrix"]
    assert found["mutants"][0]["killed_by"] == {
        "regime:codes": [1, "dequantize.values"]
    }
    again = invoke("--show", "--json", str(path))
    assert again.exit_code == 0
    assert again.output == result.output
    missed = invoke("byte_0_is_zero", "--property", "regime:randn")
    assert missed.exit_code == 1
    assert "survived: byte_0_is_zero" in missed.output


@pytest.mark.parametrize("words, says", [
    (("no_clam",), "no mistake or cheat of the gallery is called 'no_clam'; did you"),
    (("--property", "law:nearby"), "no property is called 'law:nearby'; did you mean"),
    (("--part", "powr"), "no part is called 'powr'; did you mean 'power'"),
    (("--part", "cuda"), "--part cuda needs --cuda FILE"),
    (("--part", "cuda", "--cuda", "none.json"), "No such file"),
    (("--plot", "matrix.bmp"), "--plot matrix.bmp: end it in .svg, .png, .pdf"),
    (("--json", "none/score.json"), "there is no folder none"),
    (("--show",), "--show needs --json FILE"),
])  # fmt: skip
def test_score_command_names_what_is_wrong(
    invoke: Invoke, words: tuple[str, ...], says: str
) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert says in result.output


def test_score_plot_without_matplotlib_says_what_to_install(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke("--plot", "matrix.svg")
    assert result.exit_code == 2
    assert "pip install 'refmoe[plots]'" in result.output


def test_score_plot_shows_the_matrix(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from refmoe.score import plot

    seen: list[str] = []
    wanted = Wanted(names=("byte_0_is_zero",), properties=("regime:codes",))
    (part,) = make("matrix", wanted, None, seen.append)
    assert seen == ["1 of 1 mutants killed"]
    path = tmp_path / "matrix.svg"
    plot.draw(part, path)
    assert "1 of 1 mutants killed" in path.read_text() or path.stat().st_size > 1000

"""What an earlier report still says once kernels are edited."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.mutator.building import users
from fuzz.mutator.mutants import files
from fuzz.mutator.report import Report
from fuzz.mutator.selection import beside, taken_up

TEXTS = files()
COUNT = 300


@pytest.fixture(scope="module")
def report() -> Report:
    """One in which every mutant was seen."""
    found, by_id = taken_up(Path("none"), TEXTS, COUNT, 0)
    for mutant in by_id.values():
        found.enter(mutant, {"status": "killed"})
    assert len(found.mutants) == COUNT
    return found


@pytest.fixture
def path(report: Report, tmp_path: Path) -> Path:
    report.write(tmp_path / "report.json")
    return tmp_path / "report.json"


def left(report: Report) -> set[str]:
    """Files with a mutant that is to run."""
    entries = report.mutants.values()
    return {entry["file"] for entry in entries if entry["status"] == "never ran"}


def test_mutants_of_the_same_sources_keep_their_results(
    path: Path, report: Report
) -> None:
    found, by_id = taken_up(path, TEXTS, COUNT, 0)
    assert found == report
    assert list(by_id) == list(found.mutants)
    assert len(taken_up(path, TEXTS, COUNT + 9, 0)[1]) == COUNT + 9
    assert not taken_up(path, TEXTS, COUNT, 1)[0].mutants


def test_mutants_beside_an_edit_run_again(path: Path, report: Report) -> None:
    """Catches a result that is handed on though its program is another."""
    name = "combine.cu"
    # One line more: what follows moves down, and its mutants with it.
    found, by_id = taken_up(path, {**TEXTS, name: "\n" + TEXTS[name]}, COUNT, 0)
    assert left(found) == {file for file in TEXTS if name in users(file)}
    assert found.about["runs"] == [{"edited": [name]}]
    old = [entry for entry in report.mutants.values() if entry["file"] == name]
    new = [entry for entry in found.mutants.values() if entry["file"] == name]
    lines = [{entry["before"] for entry in entries} for entries in (old, new)]
    assert lines[0] == lines[1]
    assert [entry["line"] for entry in new] == [entry["line"] + 1 for entry in old]
    assert all(by_id[entry["id"]].line == entry["line"] for entry in new)


def test_mutants_that_an_edit_takes_are_drawn_anew(path: Path) -> None:
    """Catches a sample that shrinks, or misses what was written since."""
    name = "combine.cu"
    text = TEXTS[name].replace("row", "line")
    found, by_id = taken_up(path, {**TEXTS, name: text}, COUNT, 0)
    assert len(found.mutants) < len(by_id) == COUNT
    own = [mutant for mutant in by_id.values() if mutant.file == name]
    assert any("line" in mutant.before for mutant in own)
    assert not any("row" in mutant.before for mutant in own)


def test_mutants_of_a_file_that_is_gone_are_dropped(path: Path) -> None:
    texts = {name: text for name, text in TEXTS.items() if name != "rows.cu"}
    found, by_id = taken_up(path, texts, COUNT, 0)
    assert {mutant.file for mutant in by_id.values()} <= set(texts)
    assert {entry["file"] for entry in found.mutants.values()} <= set(texts)


def test_files_beside_a_header_are_those_of_its_programs() -> None:
    assert beside({"types.cuh"}, TEXTS) == set(TEXTS)
    assert "route.cu" not in beside({"results.cuh"}, TEXTS)
    assert {"grouped_mma.cu", "mma.cuh"} <= beside({"results.cuh"}, TEXTS)
    assert beside(set(), TEXTS) == set()

"""The README's tables say what the recorded score says, and that can be had again."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from refmoe.score import document, matrix, readme
from refmoe.score.properties import PROPERTIES
from refmoe.score.text import status

ROOT = Path(__file__).resolve().parents[2]
SCORE = ROOT / "docs" / "evidence" / "score.json"
#: Mutants that are tried again, of different ops, classes and killers.
AGAIN = (
    "byte_0_is_zero", "gate_and_up_swapped", "last_row_unwritten",
    "scalar_read_at_capture", "tail_rows_dropped",
)  # fmt: skip
REMAKE = "make it again: refmoe score --part matrix --json docs/evidence/score.json"


@cache
def parts() -> dict[str, Any]:
    return document.read(SCORE).parts


def recorded() -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in parts()["matrix"]["mutants"]}


def test_readme_has_the_tables_of_the_recorded_score() -> None:
    text = (ROOT / "README.md").read_text()
    for table in readme.tables(parts()):
        assert table in text, f"README.md lacks\n\n{table}"


def test_evidence_scores_every_mutant_by_every_property() -> None:
    """Catches a mutant, or a property, that came after the score was made."""
    known = {name for kind in matrix.KINDS for name in matrix.entries(kind)}
    assert set(recorded()) == known, REMAKE
    assert [one["property"] for one in parts()["matrix"]["properties"]] == list(
        PROPERTIES
    ), REMAKE
    assert parts()["matrix"]["cases_of_each_property"] == matrix.PROFILES["ci"]


def test_evidence_meets_its_targets() -> None:
    """No survivor, no false alarm, 1 % in every format, one element of 10^6."""
    assert status(parts()) == 0
    assert parts()["honest"]["decided"] >= 1_000
    smallest = [one["smallest"]["1"] for one in parts()["power"]["scales"]]
    assert all(error is not None and error <= 0.01 for error in smallest)
    one = parts()["power"]["elements"]
    assert one["of"] >= 1_000_000
    assert one["caught"] == one["moved"]


def test_evidence_sums_up_its_own_rows() -> None:
    whole = parts()["matrix"]
    assert matrix.by_property(whole["mutants"]) == whole["properties"]
    assert matrix.coverage(whole["mutants"]) == whole["coverage"]
    killed = [one for one in whole["mutants"] if one["status"] == "killed"]
    assert (whole["killed"], whole["of"]) == (len(killed), len(whole["mutants"]))


@pytest.mark.parametrize("name", AGAIN)
def test_evidence_of_a_mutant_can_be_had_again(name: str) -> None:
    """Catches a recorded matrix that the code no longer gives."""
    one = recorded()[name]
    cases = parts()["matrix"]["cases_of_each_property"]
    (row,) = matrix.rows(matrix.Task(one["kind"], (name,), cases))
    assert (row.status, row.verdict) == (one["status"], one["verdict"])
    assert set(row.hits) == set(one["killed_by"]), REMAKE

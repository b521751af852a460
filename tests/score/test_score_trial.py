"""An entry on trial: what breaks which property, and what that is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from refmoe.case import Case
from refmoe.gallery import entries
from refmoe.gallery.entry import Entry, Stage
from refmoe.gallery.plain import Plain
from refmoe.laws import LAWS
from refmoe.loading import port_of
from refmoe.plan import Cell
from refmoe.problem import build
from refmoe.score import matrix
from refmoe.score.properties import GUARDS, PROPERTIES, broken, property_called
from refmoe.score.trial import Row, plans, tried
from refmoe.score.watched import Watched
from refmoe.verify import Verifier
from refmoe.worker.runner import InProcess

MISTAKES = entries("mistake")


def row(entry: Entry, count: int = 2, *only: str) -> Row:
    return tried(
        "mistake", entry, lambda: port_of(entry.port(), entry.name), InProcess(),
        count, only,
    )  # fmt: skip


def test_trial_tells_properties_that_break_from_those_that_hold() -> None:
    """A scale byte that is read as zero: only inputs that hold every byte show it."""
    found = row(MISTAKES["byte_0_is_zero"])
    assert (found.status, found.verdict, found.late) == ("killed", "WRONG", False)
    assert set(found.hits) == {"regime:codes"}
    hit = found.hits["regime:codes"]
    assert hit.after == 1
    assert hit.stage == "dequantize.values"
    assert hit.case.startswith("dequantize T=256 H=64 format=mxfp4 ")


def test_trial_gives_every_property_as_many_cases() -> None:
    entry = MISTAKES["byte_0_is_zero"]
    port = port_of(entry.port(), entry.name)
    asked = {name: list(plan) for name, plan in plans(port, entry, 4)}
    assert {name.partition(":")[0] for name in asked} == {"regime", "profile", "law"}
    assert {
        len(plan) for name, plan in asked.items() if not name.startswith("law:")
    } == {4}
    assert all(
        len(plan) == 1 for name, plan in asked.items() if name.startswith("law:")
    )
    subjects = {cell.subject for cell, _ in asked["regime:randn"]}
    assert len(subjects) == 3, "every format has its turn"


def test_trial_of_an_honest_entry_breaks_nothing() -> None:
    """Catches a property that is broken by whatever comes."""
    entry = entries("honest")["reversed_order"]
    found = row(entry, 1, "regime:randn", "regime:exact", "profile:views", "law:batch")
    assert (found.status, found.verdict, found.hits) == ("survived", "", {})
    assert len(found.asked) == 4


def test_trial_of_what_no_property_shows_ends_in_a_verification() -> None:
    """A single element of a million needs more cases than a property has."""
    entry = replace(MISTAKES["ties_away"], at="quantize", variant=_late)
    found = row(entry, 1)
    assert found.status == "killed"
    assert found.late
    assert not found.hits


def _late(stage: Stage, x: torch.Tensor, *rest: Any) -> Any:
    """Right until a port has seen thirty tensors."""
    seen = stage.memory.setdefault("seen", set())
    seen.add(float(x.double().nan_to_num().sum()))
    return stage.honest(x * (2.0 if len(seen) > 30 else 1.0), *rest)


def test_trial_says_never_ran_where_its_law_cannot_be_heard() -> None:
    """Catches a mutant that counts as survived, or killed, because a GPU is missing."""
    entry = MISTAKES["scalar_read_at_capture"]
    assert LAWS["captured"].catches == entry.name
    found = row(entry, 1, "law:captured", "regime:randn")
    assert (found.status, found.verdict) == ("never ran", "")
    found = row(MISTAKES["ties_away"], 1, "law:captured")
    assert found.status == "survived"


def test_trial_undeclared_is_as_much_as_some_deserve() -> None:
    entry = MISTAKES["weights_in_bf16"]
    assert entry.verdict == "UNDECLARED"
    assert row(entry, 1, "regime:randn").verdict == "UNDECLARED"
    assert row(replace(entry, verdict="WRONG"), 1, "regime:randn").status == "survived"


# ---- guards and contracts


class Rude(Plain):
    """Computes the wrong sums, and misbehaves besides."""

    def __init__(self, does: str) -> None:
        super().__init__()
        self.does = does

    def combine(self, down: Any, rows: Any, weights: Any) -> Any:  # type: ignore[override]
        total = super().combine(down, rows, weights) + 1.0
        if self.does == "guard:arguments":
            down[:1, :1] += 1.0
        if self.does == "guard:canaries":
            storage = down.untyped_storage()
            flat = torch.empty(0, dtype=torch.uint8).set_(
                storage, 0, (storage.nbytes(),)
            )
            flat[0] = 1
        if self.does == "guard:gaps":
            whole = down.as_strided((len(down), down.stride(0)), (down.stride(0), 1))
            whole[:-1, -1] = 1.0
        if self.does == "contract:results":
            return total[:, :-1]
        if self.does == "contract:returns":
            raise RuntimeError("as it happens")
        return total


class Lazy(Plain):
    """Leaves its buffer alone."""

    def combine(self, down: Any, rows: Any, weights: Any, *, out: Any = None) -> None:  # type: ignore[override]
        return None


@pytest.mark.parametrize("name", [*GUARDS, "contract:results", "contract:returns"])
def test_broken_names_each_guard_and_what_the_values_show(name: str) -> None:
    """Catches a guard whose words have changed, and one that hides wrong values."""
    port = port_of(Lazy() if name == "guard:poison" else Rude(name), "rude")
    case = Case("combine", model="mixtral-8x7b", T=5, H=64, E=8, k=2, seed=3)
    case = case.but(memory="strided" if name == "guard:gaps" else "contiguous")
    watched = Watched()
    record = Verifier(runner=watched).check(port, case)
    found = dict(broken(record, watched.heard()))
    complete = not name.startswith("contract:")
    assert set(found) == {name, "regime:randn"} if complete else {name}
    assert watched.heard() == ()


def test_broken_other_model_is_told_by_its_deviation() -> None:
    entry = entries("cheat")["declares_nothing_to_compute"]
    watched = Watched()
    port = port_of(entry.port(), entry.name)
    case = Case("moe", model="mixtral-8x7b", T=5, H=64, I=64, E=8, k=2, seed=3)
    record = Verifier(runner=watched).check(port, case)
    assert [name for name, _ in broken(record, watched.heard())] == ["contract:model"]


def test_watched_hands_on_whole_results_without_violations() -> None:
    problem = build(Case("combine", model="mixtral-8x7b", T=5, H=64, E=8, k=2))
    watched = Watched()
    assert not watched.run(port_of(Rude("guard:canaries"), "rude"), problem).violations
    assert "wrote outside" in watched.heard()[0]
    assert watched.run(port_of(Rude("contract:results"), "rude"), problem).violations


# ---- the whole table


def test_matrix_counts_what_each_property_kills_alone() -> None:
    mutants = [
        {"name": "a", "killed_by": {"law:near": [1, ""]}, "asked": {"law:near": 1}},
        {
            "name": "b", "asked": {"law:near": 2, "regime:randn": 4},
            "killed_by": {"law:near": [2, ""], "regime:randn": [4, ""]},
        },
    ]  # fmt: skip
    table = {one["property"]: one for one in matrix.by_property(mutants)}
    assert list(table) == list(PROPERTIES)
    near, randn = table["law:near"], table["regime:randn"]
    assert (near["cases"], near["kills"], near["in_one_case"]) == (3, 2, 1)
    assert (near["alone"], near["alone_of_kind"]) == (["a"], ["a", "b"])
    assert (randn["kills"], randn["alone"], randn["alone_of_kind"]) == (1, [], ["b"])
    assert table["guard:poison"]["kills"] == 0


def test_matrix_cheats_run_in_workers() -> None:
    """Catches a cheat that takes over the process that scores it."""
    task = matrix.Task("cheat", ("ends_the_process", "patches_comparisons"), 1)
    task = replace(task, only=("regime:randn",))
    ends, patches = matrix.rows(task)
    assert ends.status == patches.status == "killed"
    assert "contract:returns" in ends.hits


def test_matrix_unknown_names_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"no mistake or cheat .* 'no_clam'; did you mean"
    ):
        matrix.chosen(["no_clam"])
    with pytest.raises(
        ValueError, match="no property is called 'regime:rand'; did you"
    ):
        property_called("regime:rand")
    with pytest.raises(ValueError, match="guard:gaps is watched in every case"):
        property_called("guard:gaps")
    kinds = matrix.chosen(["zeros", "no_clamp"])
    assert kinds == {"mistake": ["no_clamp"], "cheat": ["zeros"]}


def test_properties_name_every_regime_profile_and_law() -> None:
    assert {f"law:{name}" for name in LAWS} <= set(PROPERTIES)
    assert property_called("regime:codes") == "regime:codes"
    cell = Cell("moe", "mixtral-8x7b", "randn", "views")
    assert f"profile:{cell.profile}" in PROPERTIES

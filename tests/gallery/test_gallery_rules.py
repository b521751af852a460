"""Other suites' rules: what they accept by algebra, and what ours kills beside them."""

from __future__ import annotations

import pytest
import torch

from refmoe.gallery import entries
from refmoe.gallery.rules import RULES
from refmoe.gallery.table import OURS, printed, rejecting, side_by_side
from refmoe.generator import Stream

RULE = {rule.name: rule for rule in RULES}
REFERENCE = Stream(3, "reference").normal((64, 128))


def accepts(name: str, got: torch.Tensor, reference: torch.Tensor = REFERENCE) -> bool:
    return RULE[name].accepts(reference, got)


@pytest.mark.parametrize("name", RULE)
def test_rules_accept_the_reference_itself(name: str) -> None:
    assert accepts(name, REFERENCE)
    assert accepts(name, REFERENCE[:0], REFERENCE[:0])


@pytest.mark.parametrize("name", RULE)
def test_rules_reject_noise(name: str) -> None:
    assert not accepts(name, 8 * Stream(4, "noise").normal((64, 128)))


def test_rules_peak_and_relative_that_sum_to_one_accept_zeros() -> None:
    assert accepts("15 % of the peak + 85 %", torch.zeros_like(REFERENCE))


def test_rules_absolute_tolerance_accepts_zeros_for_small_outputs() -> None:
    small = REFERENCE * 1e-3
    for name in ("allclose 2e-2", "allclose 1e-2 + 10 %", "95 % within 1e-2 or 1 %"):
        assert accepts(name, torch.zeros_like(small), small)
    assert not accepts("2e-2 and 4e-3 of the rms", torch.zeros_like(small), small)


def test_rules_related_by_half_accept_a_rescaled_output() -> None:
    assert accepts("97 % within 1.5 sigma or 50 %", 1.4 * REFERENCE)
    assert accepts("92.5 % within 0.1 + 85 %", 4.0 * REFERENCE)


def test_rules_direction_accepts_a_lost_token() -> None:
    lost = torch.cat([REFERENCE[:-1], torch.zeros_like(REFERENCE[:1])])
    assert accepts("direction 1e-2", lost)
    assert not accepts("direction 1e-3", lost)
    many = REFERENCE.repeat(16, 1)
    lost = torch.cat([many[:-1], torch.zeros_like(many[:1])])
    assert accepts("direction 1e-3", lost, many)


def test_rules_side_by_side_derived_bounds_kill_what_others_miss() -> None:
    mistakes = [
        entries("mistake")[name]
        for name in (
            "one_choice_of_one_token_lost", "up_clamped_from_above_only",
            "scale_twice", "gate_and_up_swapped",
        )
    ]  # fmt: skip
    honest = [entries("honest")[name] for name in ("sequential", "preset_hf_bf16")]
    rows = side_by_side(("randn",), 2, mistakes=mistakes, honest=honest)
    ours = rows[-1]
    assert (ours.rule, ours.killed, ours.failed) == (OURS, len(mistakes), 0)
    assert min(row.killed for row in rows) < len(mistakes)
    lines = printed(rows).splitlines()
    assert len(lines) == len(RULES) + 2
    assert lines[-1].startswith(OURS)


@pytest.mark.long
def test_rules_derived_bounds_fail_no_honest_port() -> None:
    failed = {
        name
        for name, entry in entries("honest").items()
        if OURS in rejecting(entry, ("randn", "exact", "heavy"), 4)
    }
    assert not failed

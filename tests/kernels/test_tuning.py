"""Choices of tactics: kept on disk, pinned, read back; never more than a lookup."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from refmoe.kernels import tuning
from refmoe.kernels.compiler import ARCHITECTURES
from refmoe.kernels.launchers.omni import TACTICS, Tactic, tactic_key
from refmoe.kernels.launchers.omni import tactics as omni_tactics

CPU = torch.device("cpu")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFMOE_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("REFMOE_TACTICS", raising=False)
    return tmp_path / "kernels" / "tactics.json"


def measured(monkeypatch: pytest.MonkeyPatch, seconds: dict[Tactic, float]) -> None:
    """Let the clock say what it should."""
    monkeypatch.setattr(
        tuning, "_time", lambda run, candidate, device: seconds[candidate]
    )


def test_tuning_keeps_the_fastest(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {tactic: 2.0 for tactic in TACTICS} | {Tactic(4, 1): 1.0}
    measured(monkeypatch, seconds)
    assert tuning.chosen("a", TACTICS) is None
    assert tuning.tune("a", TACTICS, lambda tactic: None, CPU) == Tactic(4, 1)
    assert tuning.chosen("a", TACTICS) == Tactic(4, 1)
    measured(monkeypatch, seconds | {Tactic(1, 1): 0.5})
    tuning.tune("b", TACTICS, lambda tactic: None, CPU)
    assert tuning.chosen("a", TACTICS) == Tactic(4, 1)
    assert tuning.chosen("b", TACTICS) == Tactic(1, 1)
    assert set(json.loads(kept.read_text())) == {"a", "b"}


def test_tuning_chosen_ignores_what_is_no_candidate(kept: Path) -> None:
    kept.parent.mkdir()
    kept.write_text('{"a": {"warps": 3, "tokens": 1}}')
    assert tuning.chosen("a", TACTICS) is None


def test_tuning_chosen_prefers_the_pinned_file(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, {tactic: float(tactic.tokens) for tactic in TACTICS})
    tuning.tune("a", TACTICS, lambda tactic: None, CPU)
    pinned = tmp_path / "pinned.json"
    pinned.write_text('{"a": {"warps": 8, "tokens": 1}}')
    monkeypatch.setenv("REFMOE_TACTICS", str(pinned))
    assert tuning.chosen("a", TACTICS) == Tactic(8, 1)
    with pytest.raises(
        ValueError, match=r"pins the choices of .*pinned\.json; unset it"
    ):
        tuning.tune("a", TACTICS, lambda tactic: None, CPU)
    pinned.write_text("{")
    with pytest.raises(ValueError, match=r"pinned\.json does not parse.*delete it"):
        tuning.chosen("a", TACTICS)


def test_tuning_knows_tactics_for_every_architecture() -> None:
    for target in ARCHITECTURES:
        assert Tactic() in omni_tactics(target)
        assert set(omni_tactics(target)) <= set(TACTICS)


def test_tuning_key_shares_a_choice_within_a_bucket() -> None:
    keys = {tactic_key(torch.zeros(t, 64), 8, "sm_90a") for t in (513, 700, 1024)}
    assert keys == {"omni_route target=sm_90a T=1024 n=64 k=8 dtype=fp32"}

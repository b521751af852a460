"""Identify refutes false declarations, works with what ops there are, and reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from oracle.numerics import Numerics
from oracle.spec import Layer
from refmoe.gallery import entries
from refmoe.identify import identify
from refmoe.identify.contest import Contest
from refmoe.loading import port_of
from refmoe.port import Port
from refmoe.problem import Problem
from refmoe.report.identified import text
from refmoe.runner import run
from refmoe.verdict import Outcome

HONEST = entries("honest")


def declared_as(name: str, **changes: Any) -> Port:
    """An honest port that declares something else."""
    port = port_of(HONEST[name].port(), name)
    return replace(port, numerics=port.numerics.but(**changes))


def only(name: str, *ops: str) -> Port:
    """An honest port of which some ops are left."""
    port = HONEST[name].port()
    members = {op: getattr(port, op) for op in ops}
    return port_of(
        SimpleNamespace(numerics=port.numerics, device="cpu", **members), name
    )


def equal(field: str, value: Any, declared: Any) -> bool:
    """Whether two values of a rounding point mean the same in fp32 arithmetic."""
    same = {"none": "fp32"} if field not in ("gemm", "logits") else {"fp32": "none"}
    return bool(same.get(value, value) == same.get(declared, declared))


@pytest.mark.parametrize(
    "name, changes",
    [
        ("volta", {"accumulate": "ffma"}),
        ("sequential", {"accumulate": "hmma_ampere"}),
        ("split_k_in_bf16", {"partial": "fp32"}),
        ("bf16_dequantized", {"dequantized": "none"}),
        ("sequential", {"gemm": "bf16"}),
        ("rounded_gate_up", {"gate_up": "fp32"}),
        ("bf16_activation", {"activation": "fp32"}),
        ("wide_intermediate", {"intermediate": "bf16"}),
        ("sequential", {"intermediate": "fp16"}),
        ("rounded_down", {"down": "fp32"}),
        ("sequential", {"weighted": "bf16"}),
        ("bf16_combine", {"combine": "fp32"}),
        ("bf16_combine", {"combine_order": "expert"}),
        ("bf16_shared", {"shared": "fp32"}),
        ("wide_output", {"output": None}),
        ("bf16_router", {"router": "fp32", "logits": "none"}),
        ("bf16_weights", {"weights": "fp32"}),
        ("highest_of_equals", {"ties": "lowest"}),
        ("flushed", {"subnormals": "keep"}),
        ("fast_softmax", {"exp": Numerics().exp}),
        ("sigmoid_from_tanh", {"sigmoid": Numerics().sigmoid}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_identify_refutes_a_false_declaration(
    name: str, changes: dict[str, Any]
) -> None:
    families = ("arithmetic", "routing")
    found = identify(declared_as(name, **changes), families=families)
    refuted = {item.field for item in found.contradictions}
    assert refuted & set(changes), "\n".join(text(found))
    assert refuted <= set(changes)


@pytest.mark.parametrize("name", ["sequential", "bf16_combine"])
def test_identify_refutes_nothing_of_what_is_pasted(name: str) -> None:
    wrong = declared_as(name, combine="fp16", gate_up="fp16")
    found = identify(wrong, families=("arithmetic",))
    refuted = {item.field for item in found.contradictions}
    assert {"combine", "gate_up"} <= refuted
    repaired = replace(wrong, numerics=found.numerics)
    assert not identify(repaired, families=("arithmetic",)).contradictions


def test_identify_refutes_a_false_layer() -> None:
    port = HONEST["weight_on_intermediate"].port()
    del port.declares  # type: ignore[attr-defined]
    found = identify(port_of(port), families=("arithmetic",))
    assert [item.field for item in found.contradictions] == ["weight_on"]
    rounded = HONEST["scales_rounded_up"].port()
    del rounded.declares  # type: ignore[attr-defined]
    found = identify(port_of(rounded), families=("quantisers",))
    fields = {item.field for item in found.contradictions}
    assert fields == {"activations.scale_rule", "requantize.scale_rule"}


@pytest.mark.parametrize(
    "name, field", [("unstable", "stable"), ("atomics", "deterministic")]
)
def test_identify_refutes_a_false_attribute(name: str, field: str) -> None:
    port = HONEST[name].port()
    setattr(port, field, True)
    item = identify(port_of(port)).of(field)
    assert item is not None
    assert (item.status, item.value) == ("contradicts", False)


@pytest.mark.parametrize("name", ["rounded_gate_up", "preset_hf_bf16", "bf16_combine"])
@pytest.mark.parametrize("op", ["moe", "experts"])
def test_identify_one_op_is_enough_for_the_stages_it_has(name: str, op: str) -> None:
    found = identify(only(name, op), families=("arithmetic",))
    declared = port_of(HONEST[name].port()).numerics
    assert not found.contradictions, "\n".join(text(found))
    for field in ("accumulate", "gate_up", "activation", "combine"):
        item = found.of(field)
        assert item is not None, field
        assert equal(field, item.value, getattr(declared, field))


def test_identify_says_why_a_field_stays_open() -> None:
    found = identify(only("sequential", "permute"))
    reasons = {item.field: item.reason for item in found.open}
    assert reasons["router"] == "the port has no router; it takes route or moe"
    assert "takes experts or moe" in reasons["accumulate"]
    assert found.of("stable") is not None
    assert {item.field for item in found.evidence} == {"stable"}


def test_identify_asks_a_port_of_one_model_for_no_other_formula() -> None:
    """Catches a renormalisation called false that the port never declared."""

    def route(logits: Any, params: Any, layer: Layer) -> Any:
        scores = torch.softmax(logits.float(), 1)
        order = scores.argsort(dim=1, descending=True, stable=True)
        ids = order[:, : layer.top_k]
        weights = scores.gather(1, ids)
        return ids, weights / weights.sum(1, keepdim=True)

    supports = {"models": ("mixtral-8x7b",)}
    named = {"route": route, "device": "cpu", "numerics": "ieee", "supports": supports}
    found = identify(port_of(named))
    assert not found.contradictions
    reasons = {item.field: item.reason for item in found.open}
    assert reasons["sigmoid"] == "the port supports no layer but mixtral-8x7b"


def test_identify_undeclared_port_gets_numerics_to_paste() -> None:
    port = HONEST["bf16_combine"].port()
    ops = {op: getattr(port, op) for op in ("experts", "route")}
    found = identify(port_of(ops, "box"), families=("arithmetic", "routing"))
    assert not found.contradictions
    assert repr(found.numerics) == (
        "Numerics(accumulate='ffma', weighted='bf16', combine='bf16', "
        "combine_order='slot')"
    )


def test_identify_another_runner_may_call_the_port() -> None:
    calls = []

    def counted(port: Port, problem: Problem) -> Outcome:
        calls.append(problem.case.op)
        return run(port, problem)

    found = identify(only("sequential", "route"), run=counted)
    assert len(calls) == found.calls > 0
    assert set(calls) == {"route"}


def test_identify_port_that_only_raises_leaves_all_open() -> None:
    def moe(x: Any, logits: Any, params: Any, layer: Layer) -> torch.Tensor:
        raise RuntimeError("no kernel for this machine")

    found = identify(port_of(moe))
    assert not found.evidence
    assert all(item.reason for item in found.open)
    assert any("no kernel for this machine" in item.reason for item in found.open)
    assert found.numerics == Numerics()


def test_identify_contest_keeps_what_explains_every_output() -> None:
    def given(place: int) -> str:
        return f"input {place}"

    got = torch.tensor([1.0, 2.0], dtype=torch.float64)
    contest = Contest("moe", ("a", "b"), got, given)
    contest.add(("x", 1), got)
    contest.add(("x", 2), got)
    contest.add(("y", 1), got + torch.tensor([0.0, 1.0]))
    contest.add(("y", 2), got - 1.0)
    evidence, still_open = contest.settle({"a": "y", "b": 2}, {})
    (item,) = evidence
    assert (item.field, item.value, item.status) == ("a", "x", "contradicts")
    assert (item.given, item.output) == ("input 0", "0x1p+0")
    assert item.candidates == {"x": "0x1p+0", "y": "0 (wrong 2 of 2 times)"}
    assert [item.field for item in still_open] == ["b"]


def test_identify_report_is_text_and_json() -> None:
    port = declared_as("rounded_down", down="fp32")
    found = identify(port, families=("arithmetic",))
    lines = "\n".join(text(found, evidence=True))
    assert "FINDING down: declared fp32, found bf16" in lines
    assert lines.startswith(f"numerics = {found.numerics!r}")
    document: dict[str, Any] = json.loads(json.dumps(found.document()))
    assert document["contradictions"] == ["down"]
    (down,) = (item for item in document["evidence"] if item["field"] == "down")
    assert down["declared"] == "fp32"
    assert set(down["candidates"]) == {"fp32", "bf16", "fp16"}


@pytest.fixture
def command() -> Callable[..., Any]:
    from typer.testing import CliRunner

    from refmoe.cli.app import app

    return lambda *words: CliRunner().invoke(app, ["identify", *words])


def test_identify_command_exit_status(
    command: Callable[..., Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "from refmoe import Numerics\n"
        "from refmoe.gallery.honest import rounded_down as _port\n"
        "device, numerics, experts = 'cpu', Numerics(), _port.experts\n"
    )
    (tmp_path / "wrongly_declared.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    clean = command("refmoe.gallery.honest:rounded_down")
    assert clean.exit_code == 0, clean.output
    assert "down='bf16'" in clean.output
    written = tmp_path / "found.json"
    wrong = command("wrongly_declared", "--json", str(written))
    assert wrong.exit_code == 1, wrong.output
    assert "FINDING down" in wrong.output
    assert json.loads(written.read_text())["contradictions"] == ["down"]
    assert command("no_such_module_here").exit_code == 2

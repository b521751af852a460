"""Identify finds what honest ports declare, and what others only claim."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from oracle.numerics import Numerics
from oracle.spec import Layer
from refmoe.gallery import entries
from refmoe.identify import Identified, identify
from refmoe.identify.contest import Contest
from refmoe.loading import port_of
from refmoe.port import Port
from refmoe.problem import Problem
from refmoe.report.identified import text
from refmoe.runner import run
from refmoe.verdict import Outcome

HONEST = entries("honest")
#: Fields of Numerics that the ops of the plain port show.
SHOWN = (
    "accumulate", "partial", "split_k", "dequantized", "logits", "router", "weights",
    "gemm", "gate_up", "activation", "intermediate", "down", "weighted", "combine",
    "combine_order", "shared", "output", "subnormals", "ties", "exp", "sigmoid",
)  # fmt: skip
#: Declarations that admit more than the port does, on purpose.
WIDER = {
    "split_k": {"split_k"},
    "preset_cuda_fast": {"subnormals"},
    "preset_deepseek_v4": {"accumulate"},
}
#: What another stage hides: a 16-bit GEMM2 the shared expert's own rounding, a 16-bit
#: activation the intermediate's, 16-bit weights the functions behind them.
_SHARED, _INTERMEDIATE = {"shared"}, {"intermediate"}
_FUNCTIONS = {"exp", "sigmoid"}
HIDDEN = {
    # Kahan's sum rounds like no unit; no tree gives partial sums a place.
    "compensated": {"accumulate", "partial", "split_k"},
    # An order of its own in every call.
    "shuffled": {"partial", "split_k"},
    # Every partial sum is rounded like the whole.
    "split_k_in_bf16": {"gemm", "shared"},
    # Its weight multiplies what goes into GEMM2.
    "weight_on_intermediate": {"weighted"},
    # Its only layers quantise the intermediate, and its sums keep 14 bits.
    "hopper_fp8": {
        "dequantized", "gate_up", "activation", "intermediate", "shared",
    },
    "rounded_before_bias": _SHARED,
    "rounded_down": _SHARED,
    "bf16_activation": _INTERMEDIATE,
    "bf16_weights": _FUNCTIONS,
    "bf16_router": {"weights", *_FUNCTIONS},
    "preset_hf_bf16": {*_INTERMEDIATE, *_SHARED},
    "preset_hf_gpt_oss_bf16": {*_INTERMEDIATE, *_SHARED, *_FUNCTIONS},
    "preset_vllm_triton": _INTERMEDIATE,
    "preset_vllm_triton_top4": _INTERMEDIATE,
    "preset_flashinfer_cutlass": _SHARED,
    "preset_deepseek_v4": _SHARED,
}  # fmt: skip


@cache
def found_of(name: str) -> Identified:
    torch.set_num_threads(1)
    return identify(port_of(HONEST[name].port(), name))


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


@pytest.mark.parametrize("name", HONEST)
def test_identify_finds_what_an_honest_port_declares(name: str) -> None:
    found, declared = found_of(name), port_of(HONEST[name].port()).numerics
    assert not found.contradictions, "\n".join(text(found))
    wider = {item.field for item in found.evidence if item.status == "wider"}
    assert wider == WIDER.get(name, set())
    hidden = HIDDEN.get(name, set())
    for field in SHOWN:
        item = found.of(field)
        if field in hidden:
            assert item is None, f"{field} shows after all: {item}"
            continue
        assert item is not None, (
            f"{field}: {[o for o in found.open if o.field == field]}"
        )
        if item.status != "wider":
            value, want = item.value, getattr(declared, field)
            if declared.accumulate == "fp64" and field == "dequantized":
                want = "fp64"
            assert equal(field, value, want), f"{field}: {item}"


@pytest.mark.parametrize("name", HONEST)
def test_identify_numerics_to_paste_change_nothing_that_is_right(name: str) -> None:
    found, declared = found_of(name), port_of(HONEST[name].port()).numerics
    changes = {
        item.field: item.value for item in found.evidence if item.status == "wider"
    }
    assert found.numerics == declared.but(**changes)


@pytest.mark.parametrize(
    "name, value",
    [
        ("volta", ("hmma_volta",)),
        ("ampere", ("hmma_ampere",)),
        # The same arithmetic under two names.
        ("hopper", ("hmma_hopper", "tcgen05_bf16")),
        ("any_tensor_core", ("hmma_hopper", "tcgen05_bf16")),
        ("hopper_fp8", ("qgmma_hopper_promoted",)),
        ("sequential", ("ffma",)),
        ("shuffled", ("ffma",)),
        ("preset_reference", ("fp64",)),
    ],
)
def test_identify_matrix_unit_is_found(name: str, value: tuple[str, ...]) -> None:
    item = found_of(name).of("accumulate")
    assert item is not None
    assert item.found == value


@pytest.mark.parametrize(
    "name, value",
    [
        ("sequential", "one after the other"),
        ("reversed_order", "one after the other, from the last"),
        ("pairwise", "a balanced tree"),
        ("volta", "fused steps of up to 5 terms, the sum so far among them"),
        ("hopper_fp8", "fused steps of up to 33 terms, the sum so far among them"),
    ],
)
def test_identify_order_of_sums_is_revealed(name: str, value: str) -> None:
    item = found_of(name).of("order of sums")
    assert item is not None
    assert item.value == value


@pytest.mark.parametrize(
    "name, field, value",
    [
        ("atomics", "deterministic", False),
        ("shuffled", "deterministic", False),
        ("sequential", "deterministic", True),
        ("sequential", "batch_invariant", True),
        ("fused", "fma", True),
        ("sequential", "fma", False),
        ("pairwise", "fma", False),
        ("unstable", "stable", False),
        ("sequential", "stable", True),
        ("sequential", "nan", "stays"),
        ("scales_rounded_up", "activations.scale_rule", "ceil"),
        ("scales_rounded_up", "requantize.scale_rule", "ceil"),
        ("sequential", "activations.scale_rule", "floor"),
        ("weight_on_intermediate", "weight_on", "intermediate"),
        ("sequential", "mxfp4:even scale_rule", "even"),
        ("sequential", "nvfp4:torchao recipe", "torchao"),
        ("sequential", "int8_token rounding", "nearest_even"),
        ("sequential", "mxfp4 nonfinite", "error"),
        ("sequential", "renormalize", "sum_plus_epsilon"),
        ("sequential", "epsilon", 1e-20),
    ],
)
def test_identify_policies_are_found(name: str, field: str, value: Any) -> None:
    item = found_of(name).of(field)
    assert item is not None
    assert item.value == value


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

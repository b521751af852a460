"""The runner: refusals, crashes, guards around one call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.params import Blocks
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.problem import Problem, build
from refmoe.runner import run
from refmoe.verdict import Outcome

MOE = build(parse("moe T=3 H=32 I=32 E=4 k=2 weights=mxfp4 seed=6"))
QUANTIZE = build(parse("quantize T=3 H=64 format=mxfp4 seed=5"))


def call(function: Any, problem: Problem = MOE, **attributes: Any) -> Outcome:
    named = {problem.case.op: function, "device": "cpu", **attributes}
    return run(port_of(named, "mine"), problem)


def zeros(x: torch.Tensor, logits: Any, params: Any, layer: Any) -> torch.Tensor:
    return torch.zeros_like(x)


def test_runner_returns_results_by_tap() -> None:
    outcome = call(zeros)
    assert (outcome.status, outcome.violations) == ("ran", ())
    assert outcome.outputs["out"].shape == (3, 32)


def test_runner_absent_op_is_missing() -> None:
    assert run(port_of({"moe": zeros}), QUANTIZE).status == "missing"


def test_runner_declared_unsupported_is_not_called() -> None:
    def never(x: Any, logits: Any, params: Any, layer: Any) -> None:
        pytest.fail("called")

    outcome = call(never, supports=lambda case: "T must be even")
    assert (outcome.status, outcome.log) == ("unsupported", "T must be even")


@pytest.mark.parametrize("error", [ValueError, NotImplementedError])
def test_runner_clear_refusal_is_refused(error: type[Exception]) -> None:
    def refuse(x: Any, logits: Any, params: Any, layer: Any) -> None:
        raise error("H=32 is no multiple of 64")

    outcome = call(refuse)
    assert outcome.status == "refused"
    assert outcome.log == f"{error.__name__}: H=32 is no multiple of 64"


CRASHES = [
    ValueError(), RuntimeError("illegal access"), AssertionError("x"), SystemExit(3),
    TypeError("x"),
]  # fmt: skip


@pytest.mark.parametrize("error", CRASHES, ids=[type(e).__name__ for e in CRASHES])
def test_runner_any_other_exception_is_a_crash(error: BaseException) -> None:
    def crash(x: Any, logits: Any, params: Any, layer: Any) -> None:
        raise error

    outcome = call(crash)
    assert outcome.status == "crashed"
    assert type(error).__name__ in outcome.log
    assert "in crash" in outcome.log
    assert "refmoe/runner.py" not in outcome.log


def test_runner_interrupt_of_the_user_is_not_swallowed() -> None:
    def interrupt(x: Any, logits: Any, params: Any, layer: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(interrupt)


def test_runner_prepare_runs_first_and_its_failure_is_the_ports() -> None:
    def moe(x: Any, logits: Any, params: Any, layer: Any, *, prepared: Any) -> Any:
        assert prepared == "packed"
        return torch.zeros_like(x)

    assert call(moe, prepare=lambda params, layer: "packed").status == "ran"

    def broken(params: Any, layer: Any) -> None:
        raise RuntimeError("no shared memory left")

    assert call(moe, prepare=broken).status == "crashed"


BAD = [
    (lambda x: x[:2], "out has shape (2, 32); want (3, 32)"),
    (lambda x: x.float(), "out is float32; want bfloat16"),
    (lambda x: [[0.0]], "out is a list; return a tensor"),
    (lambda x: (x, x), "moe returned 2 values (tuple); return out"),
    (lambda x: "x", "moe returned a value (str); return out"),
    (lambda x: None, "out is a NoneType; return a tensor"),
]


@pytest.mark.parametrize("make, sentence", BAD, ids=[s for _, s in BAD])
def test_runner_result_that_breaks_the_contract_is_named(
    make: Any, sentence: str
) -> None:
    def moe(x: torch.Tensor, logits: Any, params: Any, layer: Any) -> Any:
        return make(x.clone())

    assert call(moe).violations == (sentence,)


def test_runner_changed_arguments_are_a_violation_unless_declared() -> None:
    def moe(x: torch.Tensor, logits: torch.Tensor, params: Any, layer: Any) -> Any:
        x[1, 3] += 1.0
        logits[2, 0] = -0.0 if logits[2, 0] == 0 else 0.0
        assert isinstance(params.gate_up, Blocks)
        params.gate_up.scales[3, 1, 0] ^= 1
        return torch.zeros_like(x)

    violations = call(moe).violations
    assert violations == (
        "the call changed its argument params.gate_up.scales at [3, 1, 0]; declare "
        "mutates=('params',) if that is meant",
        "the call changed its argument x at [1, 3]; declare mutates=('x',) if that is "
        "meant",
        "the call changed its argument logits at [2, 0]; declare mutates=('logits',) "
        "if that is meant",
    )
    assert call(moe, mutates=("x", "logits", "params")).violations == ()


def test_runner_problem_itself_is_never_touched() -> None:
    before = MOE.inputs["x"].clone()

    def moe(x: torch.Tensor, logits: Any, params: Any, layer: Any) -> torch.Tensor:
        return x.fill_(7.0)

    call(moe, mutates=("x",))
    assert torch.equal(MOE.inputs["x"], before)


def test_runner_out_buffer_comes_poisoned_and_must_be_filled() -> None:
    def moe(x: Any, logits: Any, params: Any, layer: Any, *, out: torch.Tensor) -> None:
        assert bool(out.isnan().all())
        out[:2] = 0.0
        out[2, 5:] = 0.0

    outcome = call(moe)
    assert outcome.violations == (
        "5 elements of out were never written, first [2, 0]: the buffer's poison is "
        "still there",
    )


def test_runner_codes_may_come_as_fp8_tensors_or_as_blocks() -> None:
    problem = build(parse("quantize T=3 H=64 format=mxfp8_e4m3 seed=5"))
    codes = torch.arange(192, dtype=torch.uint8).reshape(3, 64)
    scales = torch.full((3, 2), 127, dtype=torch.uint8)

    def fp8(x: Any, format: Any) -> Any:
        return codes.view(torch.float8_e4m3fn), scales.view(torch.float8_e8m0fnu)

    def blocks(x: Any, format: Any) -> Any:
        return Blocks(codes, scales, format)

    for function in (fp8, blocks):
        outcome = call(function, problem)
        assert outcome.violations == ()
        assert torch.equal(outcome.outputs["codes"], codes)
        assert torch.equal(outcome.outputs["scales"], scales)


def test_runner_collects_the_taps_that_a_port_exposes() -> None:
    def moe(x: Any, logits: Any, params: Any, layer: Any, *, taps: Any) -> Any:
        taps["down"] = torch.zeros(6, 32)
        taps["gateup"] = x
        taps["ids"] = [1]
        return torch.zeros_like(x)

    outcome = call(moe)
    assert list(outcome.taps) == ["down"]
    assert outcome.violations[0].startswith("no tap is called 'gateup'; did you mean")
    assert outcome.violations[1] == "tap ids is a list; expose a plain torch.Tensor"


def test_runner_gives_no_gradients() -> None:
    def moe(x: Any, logits: Any, params: Any, layer: Any) -> torch.Tensor:
        weight = torch.ones(32, requires_grad=True)
        return torch.zeros_like(x) * weight.bfloat16()

    assert not call(moe).outputs["out"].requires_grad

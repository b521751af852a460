"""Laws: related launches agree as far as the arithmetic allows, or to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from oracle.numerics import PRESETS, Numerics
from refmoe.gallery import entries
from refmoe.gallery.plain import Plain
from refmoe.judge import Judgement
from refmoe.laws import LAWS, judge_law, launched, law_called, recorded, state
from refmoe.laws.agree import agree
from refmoe.laws.relation import Agreement, Launch, Side, drive
from refmoe.laws.sides import reach
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.port import Port
from refmoe.problem import Problem, build
from refmoe.protocol import OPS
from refmoe.verdict import Kind, Outcome
from refmoe.verify import Verifier

MOE = "moe model=mixtral-8x7b T=9 H=64 I=32 E=6 k=2 regime=randn seed=3"
#: Layers with what the laws have to carry along: groups, hash tables, identity experts,
#: logits of shared experts, biases, and every kind of block format.
LAYERS = (
    "model=mixtral-8x7b T=7 H=96 I=64 E=6 k=2",
    "model=gpt-oss-120b T=5 H=64 I=64 E=9 k=4",
    "model=deepseek-v3 T=5 H=128 I=128 E=16 k=4 shared.intermediate=128",
    "model=deepseek-v4-flash-hash T=5 H=128 I=256 E=4 k=2 shared.intermediate=128",
    "model=longcat-flash T=7 H=64 I=64 E=6 k=4 routing.zero_experts=3",
    "model=inkling T=5 H=64 I=64 E=8 k=2 shared.intermediate=64",
    "model=kimi-k2-thinking T=5 H=64 I=64 E=8 k=2 shared.intermediate=64",
    "model=a.x-k2 T=5 H=64 I=64 E=8 k=2 shared.intermediate=64",
    "T=5 H=64 I=64 E=6 k=2 weights=nvfp4",
    "T=5 H=64 I=64 E=6 k=2 weights=fp8_channel activations=fp8_token",
)


#: Laws whose launches differ in what they compute.
RELATED = (
    "token_order", "batch", "expert_numbers", "more_experts", "zero_padding", "near",
    "expert_ranks", "tensor_ranks",
)  # fmt: skip


def held(law: str, port: Port, line: str, **fields: Any) -> Judgement:
    """The judgement of one law on one case."""
    case = parse(line)
    problem = build(case).but(numerics=port.definition(case.layer)[1])
    return judge_law(launched(LAWS[law], port, problem), port, problem, **fields)


def port_with(at: str, stage: Callable[..., Any], **attributes: Any) -> Port:
    """The plain port with one stage replaced."""
    port = Plain()
    honest = getattr(port, at)
    setattr(port, at, lambda *given: stage(honest, *given))
    for name, value in attributes.items():
        setattr(port, name, value)
    return port_of(port, "plain")


@pytest.mark.parametrize("words", LAYERS)
def test_laws_hold_for_the_oracle(words: str) -> None:
    """Catches a law whose second problem is not the first in another guise."""
    port = port_of(Plain(), "plain")
    numerics = Numerics(output="fp64")
    problem = build(parse(f"moe {words} regime=exact seed=1"), numerics)
    fit = [name for name in RELATED if not LAWS[name].objection(problem.case, port)]
    assert "expert_numbers" in fit
    for name in fit:
        _, agreements = drive(LAWS[name].steps(problem, port), _typed)
        assert agreements
        _check_oracle(agreements[0])


def _typed(launch: Launch) -> Outcome:
    """An outcome that says no more than the type of each result."""
    names = [field.name for field in OPS[launch.problem.case.op].results]
    return Outcome("ran", {name: torch.zeros(1).double() for name in names})


def _check_oracle(agreement: Agreement) -> None:
    rows = torch.arange(1)
    outcomes = {
        launch.name: _typed(launch)
        for side in (agreement.first, agreement.second)
        for launch in side.launches
    }
    first, second = (
        reach(side, outcomes, "out", rows, lambda problem: problem)
        for side in (agreement.first, agreement.second)
    )
    error = (first.value - second.value).abs()
    assert bool(first.value.any())
    assert bool((error <= first.radius + second.radius).all())


def outcomes_of(problem: Problem, *results: torch.Tensor) -> tuple[Any, Agreement]:
    """Two launches of a grouped GEMM that returned these, and that they must agree."""
    launches = [Launch(name, problem) for name in ("one", "two")]
    outcomes = {
        launch.name: Outcome("ran", {"y": result})
        for launch, result in zip(launches, results, strict=True)
    }
    return outcomes, Agreement(*(Side((launch,)) for launch in launches))


def gemm() -> tuple[Problem, torch.Tensor, torch.Tensor]:
    """A problem with an fp32 result, a right result, and how far a right one may be."""
    problem = build(parse("grouped_gemm T=5 H=64 I=32 E=4 k=2 regime=randn seed=2"))
    problem = problem.but(numerics=Numerics(output="fp32"))
    side = Side((Launch("one", problem),))
    shape = torch.zeros(1)
    found = reach(
        side, {"one": Outcome("ran", {"y": shape})}, "y",
        torch.arange(len(problem.inputs["x"])), lambda problem: problem,
    )  # fmt: skip
    return problem, found.value.float(), found.radius


def test_laws_agree_within_both_bounds_and_no_further() -> None:
    problem, right, radius = gemm()
    for factor, kind in ((0.0, Kind.BIT_EQUAL), (1.5, Kind.WITHIN), (2.5, Kind.WRONG)):
        moved = right.double()
        moved[3, 7] += factor * radius[3, 7]
        outcomes, agreement = outcomes_of(problem, right, moved.float())
        (verdict,) = agree(agreement, outcomes, lambda problem: problem)
        assert verdict.kind is kind
        assert not factor or verdict.index == (3, 7)
    assert verdict.detail == "two against one: 1 of 640 elements disagree"


def test_laws_agree_on_nan_and_reject_it_alone() -> None:
    problem, right, _ = gemm()
    spoilt = right.clone()
    spoilt[1, 1] = torch.nan
    outcomes, agreement = outcomes_of(problem, spoilt, spoilt.clone())
    assert agree(agreement, outcomes, lambda p: p)[0].kind is Kind.BIT_EQUAL
    outcomes, agreement = outcomes_of(problem, right, spoilt)
    (verdict,) = agree(agreement, outcomes, lambda problem: problem)
    assert (verdict.kind, verdict.index) == (Kind.WRONG, (1, 1))


def test_laws_compare_shapes_first() -> None:
    problem, right, _ = gemm()
    outcomes, agreement = outcomes_of(problem, right, right[:-1])
    (verdict,) = agree(agreement, outcomes, lambda problem: problem)
    assert verdict.detail == "y of two has shape (9, 64), of one (10, 64)"


def test_laws_replay_their_record() -> None:
    """Catches a law that launches otherwise where it is judged."""
    port = port_of(entries("mistake")["rows_of_a_larger_call"].port(), "mistake")
    problem = build(parse(MOE))
    law = LAWS["replay"]
    first = launched(law, port, problem)
    again = recorded(law, port, problem, first.outcomes)
    verdicts = [judge_law(one, port, problem).verdict for one in (first, again)]
    assert verdicts[0] == verdicts[1]
    assert verdicts[0].kind is Kind.WRONG


@pytest.fixture
def shuffled(monkeypatch: pytest.MonkeyPatch) -> Port:
    """Every call adds in another order."""
    monkeypatch.setattr(state, "_TIMES", 3)
    wide = Numerics(accumulate="ffma", output="fp32")
    entry = replace(entries("honest")["shuffled"], numerics=wide)
    return port_of(entry.port(), "shuffled")


def test_laws_repeat_asks_for_bits_where_they_are_declared(shuffled: Port) -> None:
    assert held("repeat", shuffled, MOE).verdict.kind is Kind.WITHIN
    claims = {**shuffled.attributes, "deterministic": True}
    verdict = held("repeat", replace(shuffled, attributes=claims), MOE).verdict
    assert verdict.kind is Kind.WRONG
    assert "to the bit as declared" in verdict.detail


def in_halves(honest: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Batches of some rows split K."""
    if len(x) < 3:
        return honest(x, weight)
    half = x.shape[1] // 2
    first = honest(x[:, :half].contiguous(), weight[:, :half].contiguous())
    return first + honest(x[:, half:].contiguous(), weight[:, half:].contiguous())


def test_laws_batch_asks_for_bits_where_they_are_declared() -> None:
    line = MOE.replace("T=9", "T=33")
    port = port_with("matmul", in_halves, numerics=Numerics(output="fp32"))
    assert held("batch", port, line).verdict.kind is Kind.WITHIN
    claims = replace(port, attributes={**port.attributes, "batch_invariant": True})
    assert held("batch", claims, line).verdict.kind is Kind.WRONG


def test_laws_beyond_the_declared_arithmetic_is_undeclared(shuffled: Port) -> None:
    exact = PRESETS["reference"].but(output="fp32")
    port = replace(shuffled, numerics=exact)
    known = {"PRESETS['ieee']": Numerics(output="fp32")}
    judgement = held("repeat", port, MOE, others=known)
    assert judgement.verdict.kind is Kind.UNDECLARED
    assert judgement.fitting == tuple(known)
    assert judgement.verdict.detail.startswith("fits PRESETS['ieee']; launch")


def test_laws_ids_in_any_order_are_the_same_choice() -> None:
    """Catches a law that asks for an order inside a token."""
    line = MOE.replace("moe", "route")

    def turned(honest: Any, *given: Any) -> Any:
        ids = honest(*given)
        return ids.flip(1) if len(ids) == 9 else ids

    port = port_with("choose", turned)
    assert held("batch", port, line).verdict.kind is Kind.BIT_EQUAL


def test_laws_other_choice_is_wrong_with_both_named() -> None:
    line = MOE.replace("moe", "route")

    def shifted(honest: Any, *given: Any) -> Any:
        ids = honest(*given)
        return (ids + 1) % 6 if len(ids) == 9 else ids

    verdict = held("batch", port_with("choose", shifted), line).verdict
    assert (verdict.kind, verdict.tap) == (Kind.WRONG, "ids")
    assert "for the same token" in verdict.detail


def test_laws_failing_launch_decides() -> None:
    def choosy(honest: Any, x: torch.Tensor, *given: Any) -> Any:
        if len(x) == 1:
            raise NotImplementedError("one token is too few")
        return honest(x, *given)

    judgement = held("batch", port_with("routed", choosy), MOE)
    assert judgement.verdict.kind is Kind.REFUSED
    assert judgement.verdict.detail.startswith("rows 0 to 0: NotImplementedError: one")


@pytest.mark.parametrize(
    "line",
    [
        # No row is left, a first one neither.
        "activate T=2 I=8 E=2 k=1 load=high slots=some seed=247080 law=batch",
        # GEMM1 has as many rows as the intermediate.
        "moe T=1 H=15 I=96 E=3 k=1 law=modular activation.kind=silu seed=704299",
        # Another seed has token ids of another type.
        "route T=1 E=8 k=1 law=overwritten routing.method=hash seed=481434",
    ],
)
def test_laws_hold_at_the_edges_of_their_launches(line: str) -> None:
    record = Verifier().check(port_of(Plain(), "plain"), parse(line))
    assert record.kind in (Kind.BIT_EQUAL, Kind.WITHIN)


@pytest.mark.parametrize(
    ("law", "line", "reason"),
    [
        ("batch", MOE.replace("T=9", "T=1"), "one row has no company"),
        (
            "token_order",
            MOE.replace("regime", "activations=nvfp4 regime"),
            "rows share scales in nvfp4",
        ),
        ("expert_numbers", MOE + " local=1/2", "which experts a rank has"),
        (
            "expert_numbers",
            "route T=8 E=8 k=2 regime=exact load=high routing.method=sparsemixer",
            "weighs the one taken first",
        ),
        ("more_experts", MOE + " local=1/2", "which experts a rank has"),
        ("tactics", MOE, "there is one tactic of moe"),
        ("replay", MOE.replace("T=9", "T=0"), "without rows nothing is computed"),
        ("captured", MOE, "the port does not declare graph_safe"),
        ("modular", MOE + " shared.intermediate=32", "no op adds the shared expert"),
        ("tensor_ranks", MOE.replace("I=32", "I=33"), "I=33 does not divide into 2"),
        ("zero_padding", "permute T=4 E=4 k=2", "law zero_padding is about experts,"),
    ],
)
def test_laws_say_why_they_have_nothing_to_say(
    law: str, line: str, reason: str
) -> None:
    record = Verifier().check(port_of(Plain(), "plain"), parse(f"{line} law={law}"))
    assert record.kind is Kind.UNSUPPORTED
    assert reason in record.judgement.verdict.detail


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "permute T=4 E=4 k=2",
            "op permute is not among what the port calls graph_safe",
        ),
        (f"{MOE} tactic=torch", "tactic torch is not among"),
        (f"{MOE} tactic=naive", "there are no graphs on cpu"),
    ],
)
def test_laws_capture_what_is_graph_safe(line: str, reason: str) -> None:
    port = SimpleNamespace(
        moe=Plain().moe, permute=Plain().permute, device="cpu",
        tactics=lambda case: ("naive", "torch"), graph_safe=("moe", "naive"),
    )  # fmt: skip
    case = parse(f"{line} law=captured")
    assert reason in str(law_called("captured").objection(case, port_of(port, "some")))


def test_laws_are_words_of_a_case() -> None:
    case = parse(f"{MOE} law=batch")
    assert case.law == "batch"
    assert parse(str(case)) == case
    record = Verifier().check(port_of(Plain(), "plain"), case)
    assert (record.case, record.cell.regime) == (str(case), "law:batch")
    with pytest.raises(ValueError, match="no law is called 'bath'; did you mean"):
        law_called("bath")


def test_laws_findings_are_in_the_type_of_the_results() -> None:
    """Catches bits of fp64 beside values of bf16, where launches are added up."""
    plain = Plain()

    def moe(*arguments: Any, local: Any = None) -> torch.Tensor:
        out = plain.moe(*arguments, **({"local": local} if local else {}))
        return out * 2 if local else out

    port = port_of({"moe": moe, "device": "cpu"})
    verdict = held("expert_ranks", port, MOE).verdict
    assert verdict.kind is Kind.WRONG
    assert verdict.dtype == "bf16"

"""UNDECLARED is for arithmetic that explains a result, over all cases of an op."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oracle import models
from oracle.numerics import Numerics
from refmoe.declarations import others
from refmoe.evidence import Evidence
from refmoe.gallery import entries
from refmoe.judge import Judgement
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.undeclared import Search, Trial
from refmoe.verdict import Kind, Outcome, Verdict
from refmoe.verify import Verifier


def test_evidence_predicting_nothing_explains_anything() -> None:
    assert Evidence().explains
    assert Evidence(5, 0).explains


@pytest.mark.parametrize(
    "observed, predicted, explains",
    [(0, 40, True), (0, 60, False), (25, 100, True), (10, 1000, False),
     (250, 1000, True), (150, 1000, False), (1, 64, True)],
)  # fmt: skip
def test_evidence_of_far_too_few_elements_explains_nothing(
    observed: int, predicted: int, explains: bool
) -> None:
    """A quarter of what is predicted may be missed by chance, at 2^-20."""
    assert Evidence(observed, predicted).explains is explains


def test_evidence_adds_up_over_cases() -> None:
    single = Evidence(0, 20)
    assert single.explains
    assert not (single + single + single).explains


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (Numerics(), "Numerics(ties='highest')"),
        (Numerics(gate_up="bf16"), "numerics.but(ties='highest')"),
    ],
)
def test_others_are_text_that_can_be_pasted(declared: Numerics, text: str) -> None:
    """Catches a change of `numerics` told to a port that has none."""
    found = others("route", models.get("mixtral-8x7b"), declared)
    assert found[text] == declared.but(ties="highest")


MISTAKES = entries("mistake")


@pytest.mark.parametrize("op", ["activate", "moe"])
def test_judge_gelu_by_the_other_formula_is_wrong(op: str) -> None:
    """tanh.approx and bf16 activations are both wide enough for it, and neither it."""
    port = port_of(MISTAKES["gelu_by_the_other_formula"].port())
    case = f"{op} model=gemma-4-26b-a4b T=5 H=64 I=64 E=8 k=2 seed=1"
    record = Verifier().check(port, parse(case))
    assert record.kind is Kind.WRONG
    detail = record.judgement.verdict.detail
    assert detail == "as activation.kind=geglu_erf computes in the declared arithmetic"


def test_judge_activations_left_unquantised_are_wrong() -> None:
    """The worst case of Hopper's FP8 unit is wide enough for a W4A16 kernel in W4A8."""
    own = entries("honest")["sequential"].port()

    def experts(x: Any, ids: Any, weights: Any, params: Any, layer: Any) -> Any:
        plain = replace(layer, activations="bf16", requantize="bf16")
        return own.experts(x, ids, weights, params, plain)

    port = port_of({"experts": experts, "device": "cpu"})
    words = "weights=mxfp4 activations=mxfp8_e4m3 requantize=mxfp8_e4m3"
    case = f"experts model=gpt-oss-120b T=5 H=64 I=64 E=6 k=2 {words} seed=3"
    verdict = Verifier().check(port, parse(case)).judgement.verdict
    assert verdict.kind is Kind.WRONG
    assert verdict.detail.startswith("as activations=bf16 requantize=bf16 computes")


def test_judge_bf16_activation_is_undeclared_and_stays_so() -> None:
    port, verifier = port_of(MISTAKES["activation_in_bf16"].port()), Verifier()
    records = [
        verifier.check(
            port,
            parse(f"activate model=qwen3-30b-a3b T=5 I=64 E=8 k=2 regime={r} seed={s}"),
        )
        for r, s in (("randn", 1), ("exact", 1), ("randn", 2))
    ]
    kinds = [verifier.settled(record).kind for record in records]
    assert Kind.UNDECLARED in kinds
    assert Kind.WRONG not in kinds


def trial() -> Trial:
    entry = entries("honest")["pairwise"]
    port = port_of(entry.port())
    case = parse("activate model=qwen3-30b-a3b T=5 I=64 E=8 k=2 seed=3")
    return Trial(port, case, case.layer, port.numerics, None)


def test_search_drops_what_a_case_inside_the_declaration_contradicts() -> None:
    """fp32 results stay inside fp32's bounds: they are no bf16 intermediates' own."""
    search, verifier = Search(), Verifier()
    search.note(Judgement(Verdict(Kind.WITHIN)), trial())
    open_ = {"same": Numerics(), "coarse": Numerics(intermediate="fp16")}
    left = search.left(open_, verifier._again)
    assert list(left) == ["same"]
    assert not search.passed


def test_search_repeats_nothing_that_does_not_run() -> None:
    search = Search()
    search.note(Judgement(Verdict(Kind.WITHIN)), trial())
    search.note(Judgement(Verdict(Kind.WRONG)), replace(trial(), tactic="other"))
    assert len(search.passed) == 1
    open_ = {"any": Numerics(intermediate="fp16")}
    asked = []

    def again(repeated: Trial) -> tuple[object, Outcome]:
        asked.append(repeated.tactic)
        return None, Outcome("hung")

    assert search.left(open_, again) == open_  # type: ignore[arg-type]
    assert asked == [None]

"""The judge on hand-made traces: statuses, violations, near ties, declarations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from oracle.numerics import Numerics
from oracle.trace import Tap, Trace
from refmoe.gallery.plain import Plain
from refmoe.judge import SELECTIONS, judge
from refmoe.parse import parse
from refmoe.problem import Problem, build
from refmoe.reference import trace as oracle_trace
from refmoe.verdict import Kind, Outcome

MOE = "moe T=3 H=4 I=4 E=4 k=2"
F64 = torch.float64


@pytest.fixture(scope="module")
def problem() -> Problem:
    return build(parse(MOE))


class Tied:
    """Stands in for `oracle.routing.Admissible`: token 1 has the given selections."""

    def __init__(self, selections: torch.Tensor | None) -> None:
        self.choices = selections
        self.ambiguous = torch.tensor([False, True, False])

    def selections(self, t: int, limit: int) -> torch.Tensor | None:
        assert (t, limit) == (1, SELECTIONS)
        return self.choices


def tied_oracle(selections: torch.Tensor | None) -> Any:
    """An oracle whose output for a token is the sum of its experts' ids, exactly."""
    ids = torch.tensor([[0, 1], [0, 1], [2, 3]])

    def oracle(problem: Problem, *, rows: Any = None, given: Any = None) -> Trace:
        chosen = (given or {"ids": ids}).get("ids", ids)
        out = chosen.double().sum(1, keepdim=True).expand(-1, 4)
        admissible: Any = Tied(selections)
        return Trace({"ids": Tap(chosen, admissible=admissible), "out": Tap(out)})

    return oracle


def ran(*sums: float) -> Outcome:
    rows = torch.tensor(sums)[:, None].expand(-1, 4).bfloat16()
    return Outcome("ran", {"out": rows})


@pytest.mark.parametrize(
    "status, kind",
    [
        ("missing", Kind.MISSING), ("unsupported", Kind.UNSUPPORTED),
        ("refused", Kind.REFUSED), ("crashed", Kind.CRASHED), ("hung", Kind.HUNG),
    ],
)  # fmt: skip
def test_judge_what_did_not_run_keeps_its_name(
    problem: Problem, status: str, kind: Kind
) -> None:
    verdict = judge(problem, Outcome(status, log="why")).verdict
    assert (verdict.kind, verdict.detail) == (kind, "why")


def test_judge_a_violation_is_wrong_whatever_the_values(problem: Problem) -> None:
    outcome = Outcome("ran", violations=("x changed", "out has shape (1,)"))
    verdict = judge(problem, outcome).verdict
    assert verdict.kind is Kind.WRONG
    assert verdict.detail == "x changed; out has shape (1,)"


def test_judge_tied_token_may_match_any_selection(problem: Problem) -> None:
    oracle = tied_oracle(torch.tensor([[0, 1], [0, 2], [1, 3]]))
    assert judge(problem, ran(1, 1, 5), oracle=oracle).verdict.kind is Kind.BIT_EQUAL
    for other in (2, 4):
        verdict = judge(problem, ran(1, other, 5), oracle=oracle).verdict
        assert verdict.kind is Kind.AMBIGUOUS
        assert verdict.detail == "1 tokens match another admissible selection"
    verdict = judge(problem, ran(1, 3, 5), oracle=oracle).verdict
    assert (verdict.kind, verdict.index[0]) == (Kind.WRONG, 1)


def test_judge_tie_excuses_no_other_token(problem: Problem) -> None:
    oracle = tied_oracle(torch.tensor([[0, 1], [0, 2]]))
    verdict = judge(problem, ran(1, 2, 6), oracle=oracle).verdict
    assert (verdict.kind, verdict.index) == (Kind.WRONG, (2, 0))
    assert (verdict.got, verdict.low) == (6.0, 5.0)


def test_judge_too_many_selections_are_undecided(problem: Problem) -> None:
    verdict = judge(problem, ran(1, 3, 5), oracle=tied_oracle(None)).verdict
    assert verdict.kind is Kind.UNDECIDED
    assert verdict.detail.endswith(f"1 have more than {SELECTIONS} of them")
    # The token that cannot be decided hides no mistake elsewhere.
    verdict = judge(problem, ran(0, 3, 5), oracle=tied_oracle(None)).verdict
    assert verdict.kind is Kind.WRONG


def test_judge_tied_tokens_are_tried_together_where_a_scale_spans_them() -> None:
    """Catches a global scale of the judged token's rows alone, or of one selection."""
    numerics = Numerics(ties="any")
    for seed in (1, 4, 5):
        line = f"moe T=3 H=16 I=16 E=4 k=1 requantize=nvfp4 regime=ties seed={seed}"
        problem = build(parse(f"{line} rows=1"), numerics)
        port = Plain(Numerics(ties="highest"))
        port.choose = lambda key, n: 3 - Plain().choose(key.flip(-1), n)  # type: ignore[method-assign]
        inputs = problem.inputs
        out = port.moe(inputs["x"], inputs["logits"], problem.params, problem.layer)
        outcome = Outcome("ran", {"out": out[problem.sample]})
        assert judge(problem, outcome).verdict.kind is Kind.AMBIGUOUS
        wrong = Outcome("ran", {"out": out[problem.sample] * 1.5})
        assert judge(problem, wrong).verdict.kind is Kind.WRONG


def test_judge_undeclared_names_what_fits(problem: Problem) -> None:
    def oracle(problem: Problem, **_: Any) -> Trace:
        value = torch.full((3, 4), 1.0 if problem.numerics.down == "fp32" else 2.0)
        return Trace({"ids": Tap(torch.zeros(3, 2).long()), "out": Tap(value.double())})

    others = {"one": Numerics(down="fp16"), "two": Numerics(router="bf16")}
    found = judge(problem, ran(2, 2, 2), others=others, oracle=oracle)
    assert (found.verdict.kind, found.verdict.detail) == (Kind.UNDECLARED, "fits one")
    assert found.fitting == ("one",)
    found = judge(problem, ran(3, 3, 3), others=others, oracle=oracle)
    assert (found.verdict.kind, found.fitting) == (Kind.WRONG, ())
    assert judge(problem, ran(2, 2, 2), oracle=oracle).verdict.kind is Kind.WRONG


def test_judge_undeclared_needs_more_than_undecided_or_suspect(
    problem: Problem,
) -> None:
    """An arithmetic under which nothing can be decided explains nothing."""
    open_, closed = tied_oracle(None), tied_oracle(torch.tensor([[0, 1]]))

    def oracle(problem: Problem, **kw: Any) -> Trace:
        return (closed if problem.numerics.router == "fp32" else open_)(problem, **kw)

    others = {"loose": Numerics(router="bf16")}
    found = judge(problem, ran(1, 3, 5), others=others, oracle=oracle)
    assert found.verdict.kind is Kind.WRONG


def route_outcome(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    taps = oracle_trace(problem)
    return taps["ids"].value, taps["weights"].value.float()


def test_judge_route_order_of_slots_is_free() -> None:
    problem = build(parse("route T=9 E=8 k=3 seed=2"))
    ids, weights = route_outcome(problem)
    outcome = Outcome("ran", {"ids": ids.flip(1), "weights": weights.flip(1)})
    assert judge(problem, outcome).verdict.kind in (Kind.BIT_EQUAL, Kind.WITHIN)
    # But weights stay with their experts.
    outcome = Outcome("ran", {"ids": ids, "weights": weights.flip(1)})
    verdict = judge(problem, outcome).verdict
    assert (verdict.kind, verdict.tap) == (Kind.WRONG, "weights")


def test_judge_route_names_the_token_and_both_selections() -> None:
    problem = build(parse("route T=9 E=8 k=3 seed=2"))
    ids, weights = route_outcome(problem)
    wrong = ids.clone()
    wrong[4, 1] = next(e for e in range(8) if e not in ids[4].tolist())
    verdict = judge(problem, Outcome("ran", {"ids": wrong, "weights": weights})).verdict
    assert (verdict.kind, verdict.tap, verdict.index) == (Kind.WRONG, "ids", (4, 1))
    assert verdict.detail.startswith(
        f"token 4 chose {wrong[4].tolist()}, want {ids[4].tolist()} (key margin 0."
    )
    assert verdict.detail.endswith("1 of 9 tokens")


@pytest.mark.parametrize("bad", [-1, 8, "duplicate"])
def test_judge_route_ids_out_of_range_or_twice_are_wrong(bad: int | str) -> None:
    problem = build(parse("route T=9 E=8 k=3 seed=2"))
    ids, weights = route_outcome(problem)
    ids = ids.clone()
    ids[0, 0] = int(ids[0, 1]) if bad == "duplicate" else bad
    verdict = judge(problem, Outcome("ran", {"ids": ids, "weights": weights})).verdict
    assert (verdict.kind, verdict.tap) == (Kind.WRONG, "ids")


def test_judge_route_weights_of_other_tokens_are_still_compared() -> None:
    """The index of a bad weight counts all tokens, those with bad ids too."""
    problem = build(parse("route T=9 E=8 k=3 seed=2"))
    ids, weights = (part.clone() for part in route_outcome(problem))
    ids[0, 0] = ids[0, 1]
    weights[5, 2] += 1.0
    found = judge(problem, Outcome("ran", {"ids": ids, "weights": weights}))
    verdict = found.results[1]
    assert (verdict.tap, verdict.kind, verdict.index) == ("weights", Kind.WRONG, (5, 2))


def test_judge_permute_order_inside_an_expert_is_free_unless_stable() -> None:
    problem = build(parse("permute T=16 E=3 k=2 seed=1"))
    taps = oracle_trace(problem)
    offsets, rows = taps["offsets"].value, taps["rows"].value
    start, stop = int(offsets[1]), int(offsets[2])
    assert stop - start > 2
    shuffled = rows.clone()
    shuffled[start:stop] = rows[start:stop].flip(0)
    outcome = Outcome("ran", {"rows": shuffled, "offsets": offsets})
    assert judge(problem, outcome).verdict.kind is Kind.BIT_EQUAL
    assert judge(problem, outcome, stable=True).verdict.kind is Kind.WRONG
    across = rows.clone()
    across[start], across[start - 1] = rows[start - 1], rows[start]
    outcome = Outcome("ran", {"rows": across, "offsets": offsets})
    verdict = judge(problem, outcome).verdict
    assert (verdict.kind, verdict.tap) == (Kind.WRONG, "rows")


def test_judge_exposed_stages_come_in_the_ports_own_order_of_rows() -> None:
    problem = build(parse("experts T=8 H=32 I=32 E=3 k=2 seed=1"))
    taps = oracle_trace(problem)
    order = torch.arange(16).flip(0)
    stages = {
        "rows": taps["rows"].value[order],
        "gate_up": taps["gate_up"].value[order],
    }
    outputs = {"routed": taps["routed"].value.bfloat16()}
    assert judge(problem, Outcome("ran", outputs, stages)).first is None
    unsaid = {"gate_up": stages["gate_up"]}
    first = judge(problem, Outcome("ran", outputs, unsaid)).first
    assert first is not None
    assert first.tap == "gate_up"


def test_judge_first_stage_is_the_earliest_of_those_exposed() -> None:
    problem = build(parse("experts T=8 H=32 I=32 E=3 k=2 seed=1"))
    taps = oracle_trace(problem)
    stages = {name: taps[name].value.clone() for name in ("gate_up", "down")}
    for tensor in stages.values():
        tensor[3, 1] += 1.0
    outcome = Outcome("ran", {"routed": taps["routed"].value.bfloat16()}, stages)
    found = judge(problem, outcome)
    assert found.first is not None
    assert (found.first.tap, found.first.index) == ("gate_up", (3, 1))
    # A result that hides a wrong stage passes no one.
    assert found.verdict.kind is Kind.WRONG


def test_judge_exposed_stage_of_a_wrong_shape_is_named() -> None:
    problem = build(parse("experts T=8 H=32 I=32 E=3 k=2 seed=1"))
    taps = oracle_trace(problem)
    outputs = {"routed": taps["routed"].value.bfloat16()}
    outcome = Outcome("ran", outputs, {"down": torch.zeros(2, 3)})
    first = judge(problem, outcome).first
    assert first is not None
    assert first.detail == "down has shape (2, 3); want (16, 32)"


def test_judge_own_selection_decides_the_stages_after_it() -> None:
    """A port that takes the other of two tied experts is judged on that one."""
    problem = build(parse("moe T=6 H=32 I=32 E=4 k=1 seed=1"))
    logits = torch.zeros_like(problem.inputs["logits"])
    problem = replace(
        problem,
        inputs={**problem.inputs, "logits": logits},
        numerics=Numerics(ties="any"),
    )
    own = torch.tensor([[3], [2], [1], [0], [3], [2]])
    taps = oracle_trace(problem, given={"ids": own})
    stages = {"ids": own, "rows": taps["rows"].value, "down": taps["down"].value}
    found = judge(
        problem, Outcome("ran", {"out": taps["out"].value.bfloat16()}, stages)
    )
    assert found.first is None
    assert found.verdict.kind is Kind.AMBIGUOUS


@pytest.mark.parametrize("op", ["quantize", "grouped_quantize"])
@pytest.mark.parametrize("form", ["mxfp4:torchao_floor", "mxfp8_e4m3:quark"])
def test_judge_codes_under_a_nan_scale_are_free(op: str, form: str) -> None:
    """Catches bytes that are asked for where every byte decodes to NaN."""
    more = "" if op == "quantize" else "E=3 k=2 "
    line = f"{op} T=9 H=64 {more}format={form} regime=nonfinite seed=1"
    problem = build(parse(line))
    taps = oracle_trace(problem)
    codes, scales = taps["codes"].value, taps["scales"].value
    broken = (scales == 255).repeat_interleave(32, 1)
    assert 0 < int(broken.sum()) < broken.numel()

    def verdict(codes: torch.Tensor, scales: torch.Tensor) -> Kind:
        outcome = Outcome("ran", {"codes": codes, "scales": scales})
        return judge(problem, outcome).verdict.kind

    assert verdict(torch.where(broken, 5, codes), scales) is Kind.BIT_EQUAL
    assert verdict(torch.where(broken, codes, codes ^ 1), scales) is Kind.WRONG
    finite = torch.where(scales == 255, 120, scales)
    assert verdict(torch.where(broken, 5, codes), finite) is Kind.WRONG

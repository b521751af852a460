"""The diagnosis names the gallery's mistakes, or says that nothing explains them."""

from __future__ import annotations

from functools import cache

import pytest

from oracle.trace import TAPS
from refmoe.diagnose import HYPOTHESES, Cause, Evidence, chosen, explain
from refmoe.diagnose.oracle import STAGE
from refmoe.gallery import entries
from refmoe.gallery.entry import Entry
from refmoe.judge import judge
from refmoe.loading import port_of
from refmoe.plan import DEFAULT_FORMATS, cells
from refmoe.protocol import OPS
from refmoe.regimes import REGIMES
from refmoe.runner import run
from refmoe.schedule import schedule
from refmoe.verify import Verifier

MISTAKES = entries("mistake")
MODELS = ("mixtral-8x7b", "qwen3-30b-a3b")
#: Cases that are run for evidence, and how many more where few of them are wrong.
ENOUGH, MOST = 40, 160
#: Mistakes with the causes that are right to name: they compute the same.
CAUSES = {
    "highest_of_equals": "highest_of_equals",
    "running_maximum_from_zero": "search_from_zero",
    "experts_from_256_on_are_ignored": "experts_from_256_on_ignored",
    "last_experts_are_ignored": "last_experts_ignored",
    "masked_groups_score_zero": "masked_fill",
    "groups_by_their_best": "group_strength",
    "groups_are_ignored": "groups_ignored",
    "selection_bias_missing": "selection_bias_missing",
    "selection_bias_in_bf16": "router_bias_in_bf16",
    "selection_bias_bits_as_bf16": "router_bias_bits",
    "sigmoid_before_the_choice": "score_order",
    "token_id_masked": "token_id_masked",
    "raw_logits": "raw_logits",
    # The softmax of the chosen logits is the renormalised softmax.
    "softmax_of_the_chosen": "renormalised score_order softmax_of_the_chosen",
    "bias_leaks_into_weights": "bias_in_weights",
    "bias_leaks_at_one_tile": "bias_in_weights",
    "weights_of_the_first_experts": "weights_of_the_first_experts",
    "weights_in_rising_order": "rising_weights",
    "no_renormalisation": "no_renormalisation",
    "one_expert_is_not_renormalised": "single_choice_not_renormalised",
    "epsilon_missing": "epsilon_missing",
    "shared_logits_left_out": "shared_logits_left_out",
    "scale_twice": "scale_twice",
    "scale_missing": "scale_missing",
    "scale_of_the_slot": "scale_of_the_slot",
    "softplus_without_log1p": "naive_score",
    "softcap_missing": "softcap_missing",
    "expert_0_taken_for_none": "expert_0_unweighted",
    "equal_choices_share_their_weights": "weights_of_the_token_before",
    "weight_on_the_input": "weight_on_input",
    "weight_on_the_output": "weight_on_output",
    "scale_missing_on_the_sum": "scale_missing",
    "no_clamp": "no_clamp",
    "no_clamp_on_the_quantised_path": "no_clamp",
    "gate_clamped_from_both_sides": "gate_clamped_from_below",
    "clamp_after_the_curve": "clamp_side",
    "clamp_before_the_curve": "clamp_side",
    "up_clamped_from_above_only": "up_clamped_from_above_only",
    "limit_of_zero_clamps": "limit_of_zero_clamps",
    "nan_clamped_to_the_limit": "nan_clamped",
    "limits_per_expert_ignored": "limit_of_the_layer",
    "beta_dropped": "beta_dropped",
    "alpha_dropped": "alpha_dropped",
    "always_gated": "always_gated",
    "gelu_by_the_other_formula": "gelu_by_erf",
    "shared_expert_clamped_too": "shared_activation",
    "bias_missing": "bias_missing",
    "bias_of_the_first_expert": "bias_of_expert_0",
    "down_bias_per_rank": "down_bias_twice",
    "bias_after_the_activation": "bias_behind_activation",
    "bias_halves_swapped": "bias_halves_swapped",
    "scale_from_the_quotient": "scale_of_the_quotient",
    "scale_one_step_high": "scale_step_high",
    "scale_rounded_up": "scale_rule_rceil",
    "amax_without_sign": "amax_without_sign",
    "amax_of_half_a_block": "amax_of_half_a_block",
    "global_scale_ignored": "no_tensor_scale",
    "ties_away": "codes_half_away",
    "truncated_codes": "codes_toward_zero",
    "sticky_bits_dropped": "sticky_bits_dropped",
    "subnormal_codes_coarse": "coarse_subnormals",
    "rounded_twice": "double_rounding",
    "overflow_is_nan": "overflow_is_nan",
    "negative_zero_dropped": "negative_zero_dropped",
    "decoded_one_step_low": "scale_byte_low",
    "byte_134_is_nan": "byte_134_is_nan",
    "byte_255_is_infinite": "byte_255_is_finite",
    "byte_0_is_zero": "byte_0_is_zero",
    "scales_rounded_to_powers": "scales_rounded_to_powers",
    "global_scale_not_applied": "no_global_scale",
    "global_scale_of_the_first_expert": "global_scale_of_expert_0",
    "e5m2_read_as_e4m3": "e5m2_as_e4m3",
    # With scales that are powers of two the other bias is a scale of half the size.
    "e4m3_of_the_other_kind": "scale_byte_low",
    "one_scale_off_by_one": "last_scale",
    "gate_and_up_swapped": "gate_and_up_swapped",
    "gate_and_up_interleaved": "read_as_interleaved",
    "split_at_the_padded_half": "split_at_padding_64",
    "rank_slices_at_the_padded_offset": "rank_slice_64",
    "square_weight_transposed": "weight_transposed",
    "shared_gate_and_up_swapped": "shared_gate_and_up_swapped",
    "nibbles_swapped": "nibbles_swapped",
    "scales_shifted_by_a_block": "scales_of_the_block_before",
    "scales_of_the_next_row": "scales_of_the_row_before",
    "scales_not_interleaved": "scales_read_as_tiled",
    "scales_by_the_padded_stride": "scales_by_padded_stride",
    "scales_consumed_too_fast": "scales_consumed_too_fast",
    "strides_ignored_by_the_activation": "strides_ignored",
    "strides_ignored_by_the_quantiser": "strides_ignored",
    "only_the_first_slot": "first_slot_everywhere",
    "offsets_without_the_first": "inclusive_offsets",
    "local_offset_twice": "upper_half_dropped",
    "map_taken_for_a_mask": "expert_0_dropped",
    "absent_experts_are_the_first": "absent_is_the_first",
    "shared_expert_per_rank": "shared_twice",
    "shared_expert_over_the_scale": "shared_over_the_scale",
    "tail_rows_dropped": "tail_rows_16",
    "rows_from_64_on_dropped": "rows_from_64",
    "empty_experts_skipped": "empty_experts_skipped",
    "inverse_permutation": "inverse_permutation",
    "identity_experts_dropped": "identity_experts_dropped",
    "choices_up_to_a_power_of_two": "choices_behind_a_power_of_two",
    "small_batches_are_zero": "all_zero",
    "single_token_unweighted": "unweighted",
    "masked_gemm_below_64_rows": "last_row_repeats",
    "second_tile_of_rows": "second_tile",
    "columns_behind_the_last_tile": "columns_64",
    "products_behind_the_last_tile": "products_64",
    "one_call_without_renormalising": "no_renormalisation",
    "counts_in_8_bits": "counts_in_8_bits",
    "ids_in_8_bits": "ids_in_8_bits",
    "nan_row_spreads": "nonfinite_rows_spread",
    "combine_in_bf16": "combine_in_bf16",
    "down_in_fp16": "down_in_fp16",
    "sums_in_fp16": "sums_in_fp16",
    "output_truncated": "output_truncated",
    "output_rounded_twice": "output_rounded_twice",
    "output_half_away": "output_half_away",
    "dequantised_to_bf16": "dequantised_to_bf16",
    "weights_in_bf16": "weights_in_bf16",
    "activation_in_bf16": "activation_in_bf16",
    "sums_in_bf16": "omni_sums_in_bf16",
    "gradient_overwritten": "gradient_overwritten",
}
#: Known, and yet another cause or none comes first.
MISSED = {
    "softmax_without_its_maximum": "whom a row of NaN chooses is the sort's own affair",
    "logits_bits_as_fp16": "what was misread is rounded to bf16 besides",
    "weight_on_both_sides": "every choice by the weight of the first one",
    "zero_block_is_nan": "blocks that the scale of the tensor makes zero as well",
    "tiny_amax_overflows": "where the reciprocal overflows depends on the format",
    "quantised_path_below_16_tokens": "bf16 in the activation is nearly as good",
    "partial_sums_in_bf16": "a narrow accumulator is as good",
    "fourteen_bits": "an accumulator in fp16 is as good",
    "coarse_exponential": "bf16 in the activation is as good",
    "intermediate_through_fp16": "it is rounded to bf16 besides",
    "weight_inside_the_activation": "it keeps in fp32 what is declared as bf16",
}
#: Ops whose mistakes are diagnosed in every run; those of others in the long profile.
QUICK = ("quantize", "dequantize", "activate", "permute", "combine")


@cache
def causes(name: str) -> tuple[Cause, ...]:
    """What explains the wrong results of a mistake, the best first."""
    entry = MISTAKES[name]
    return tuple(explain(chosen(evidence(entry)), HYPOTHESES))


def evidence(entry: Entry) -> list[Evidence]:
    port, verifier = port_of(entry.port(), entry.name), Verifier()
    grid = cells(
        (entry.op,), entry.models or MODELS, entry.formats or DEFAULT_FORMATS,
        tuple(REGIMES), confined=True,
    )  # fmt: skip
    found: list[Evidence] = []
    for number, (_, _, case) in enumerate(schedule([port], grid, 8)):
        wrong = sum(not item.right for item in found)
        if number >= MOST or (number >= ENOUGH and 8 <= wrong <= number - 2):
            break
        problem = verifier.problem(case)
        layer, numerics = port.definition(problem.layer)
        problem = problem.but(layer=layer, numerics=numerics)
        outcome = run(port, problem)
        if outcome.status != "ran" or outcome.violations:
            continue
        kind = judge(problem, outcome, stable=True).verdict.kind
        if kind.executed:
            found.append(Evidence(problem, outcome, not kind.failed, True))
    return found


def profile(name: str) -> object:
    """A parameter of the ordinary profile, or of the long one."""
    quick = MISTAKES[name].op in QUICK
    return name if quick else pytest.param(name, marks=pytest.mark.long)


@pytest.mark.parametrize("name", [profile(name) for name in CAUSES])
def test_diagnose_names_the_right_cause_first(name: str) -> None:
    found = [cause.name for cause in causes(name)]
    assert found
    assert found[0] in CAUSES[name].split(), found


#: Zeros are explained by whatever drops enough of a small case.
ZEROS = "small_batches_are_zero"


@pytest.mark.parametrize("name", [profile(name) for name in CAUSES if name != ZEROS])
def test_diagnose_withheld_cause_is_replaced_by_none_as_good(name: str) -> None:
    """Catches a diagnosis that always has an answer: what is left is less exact."""
    right, *rest = causes(name)
    own = CAUSES[name].split()
    family = own[0].rstrip("0123456789")
    for other in rest:
        alike = other.name in own or other.name.rstrip("0123456789") == family
        worse = other.elsewhere > right.elsewhere or other.exact < right.exact
        twins = TWINS.get(name, "").split()
        twin = other.name in twins or other.name.rpartition("_")[0] in twins
        assert alike or worse or twin, other


#: Causes that no call of the gallery's cases tells from the right one.
TWINS = {
    "epsilon_missing": "renormalised",
    "columns_behind_the_last_tile": "result_columns",
    "sums_in_fp16": "fourteen_bits partial_sums_in_bf16",
}


def test_diagnose_knows_nine_of_ten() -> None:
    """Of the mistakes that it knows, the right cause comes first in nine of ten."""
    assert not set(CAUSES) & set(MISSED)
    assert set(CAUSES) | set(MISSED) <= set(MISTAKES)
    assert len(CAUSES) >= 9 * len(MISSED)


def test_diagnose_hypotheses_are_told_apart_and_described() -> None:
    names = [hypothesis.name for hypothesis in HYPOTHESES]
    ops = {name: set[str]() for name in names}
    for hypothesis in HYPOTHESES:
        assert not ops[hypothesis.name] & set(hypothesis.ops), hypothesis.name
        ops[hypothesis.name] |= set(hypothesis.ops)
        assert hypothesis.about[0].islower() or hypothesis.about[0] in "EGSN["
        assert not hypothesis.about.endswith(".")


def test_diagnose_alterations_reach_a_stage_of_their_ops() -> None:
    """Catches a hypothesis that alters what no trace of the op holds."""
    for hypothesis in HYPOTHESES:
        for op in hypothesis.ops:
            results = {STAGE.get((op, f.name), f.name) for f in OPS[op].results}
            stages = set(TAPS) if op in ("moe", "experts") else results
            reached = set(hypothesis.alter) & stages
            assert reached or hypothesis.change, (hypothesis.name, op)

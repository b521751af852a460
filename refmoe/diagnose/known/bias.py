"""The experts' biases."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle import bounds
from oracle.trace import Tap
from refmoe.diagnose import changes
from refmoe.diagnose.hypothesis import Change, Hypothesis, Place
from refmoe.problem import Problem

_OPS = ("experts", "moe")
_BOTH = changes.params("gate_up_bias", "down_bias")
_FIRST, _SECOND = changes.params("gate_up_bias"), changes.params("down_bias")


def _hypothesis(name: str, about: str, change: Change) -> Hypothesis:
    return Hypothesis(name, about, change, ops=_OPS)


def _of_expert_0(bias: torch.Tensor) -> torch.Tensor:
    return bias[:1].expand_as(bias).contiguous()


def _swapped(bias: torch.Tensor) -> torch.Tensor:
    return bias.roll(bias.shape[-1] // 2, -1)


def _interleaved(bias: torch.Tensor) -> torch.Tensor:
    return torch.cat((bias[:, 0::2], bias[:, 1::2]), -1)


def _without_first(problem: Problem) -> Problem | None:
    """Without GEMM1's bias, which an alteration adds elsewhere."""
    bias = problem.params.gate_up_bias
    if bias is None:
        return None
    params = replace(problem.params, gate_up_bias=torch.zeros_like(bias))
    numerics = problem.numerics.but(intermediate="fp64")
    return problem.but(params=params, numerics=numerics)


def _behind_activation(place: Place, tap: Tap) -> Tap:
    bias, numerics = place.problem.params.gate_up_bias, place.problem.numerics
    assert bias is not None
    counts = place.offsets.diff()
    owner = torch.arange(len(counts)).repeat_interleave(counts)
    up = bias.double()[owner, -tap.value.shape[-1] :]
    return bounds.rounded(
        replace(tap, value=tap.value + up), numerics.intermediate, numerics
    )


def _unweighted(place: Place, tap: Tap) -> Tap:
    """y + b / w, of which the weight makes w y + b."""
    bias = place.params.down_bias
    if bias is None:
        return tap
    counts, own = place.offsets.diff(), place.taps["weights"].value.reshape(-1)
    added = bias.double()[torch.arange(len(counts)).repeat_interleave(counts)]
    weight = own[place.slots][:, None]
    value = tap.value - added + torch.where(weight == 0, added, added / weight)
    return replace(tap, value=value)


HYPOTHESES = (
    _hypothesis("bias_missing", "both biases are left out", _BOTH(torch.zeros_like)),
    _hypothesis(
        "gate_up_bias_missing", "GEMM1's bias is left out", _FIRST(torch.zeros_like)
    ),
    _hypothesis(
        "down_bias_missing", "GEMM2's bias is left out", _SECOND(torch.zeros_like)
    ),
    _hypothesis(
        "bias_of_expert_0", "every row gets the biases of expert 0", _BOTH(_of_expert_0)
    ),
    _hypothesis(
        "down_bias_twice",
        "GEMM2's bias is added twice (by each of two ranks, say)",
        _SECOND(lambda bias: bias * 2),
    ),
    Hypothesis(
        "down_bias_unweighted",
        "GEMM2's bias is added behind the routing weight",
        alter={"down": _unweighted},
        ops=_OPS,
    ),
    _hypothesis(
        "bias_halves_swapped", "GEMM1's bias is read as [up | gate]", _FIRST(_swapped)
    ),
    _hypothesis(
        "bias_read_as_interleaved",
        "GEMM1's bias is read as if gates and ups alternated",
        _FIRST(_interleaved),
    ),
    Hypothesis(
        "bias_behind_activation",
        "GEMM1's bias is added behind the activation, its up half",
        _without_first,
        {"intermediate": _behind_activation},
        _OPS,
    ),
)

"""What has gone wrong in kernels before, by stage; the likeliest of a stage first."""

from __future__ import annotations

from refmoe.diagnose.hypothesis import Hypothesis
from refmoe.diagnose.known import (
    absent,
    activation,
    arithmetic,
    bias,
    decoding,
    extent,
    gate_up,
    omni,
    permutation,
    placement,
    quantising,
    routing,
    shared,
    weighting,
)

HYPOTHESES: tuple[Hypothesis, ...] = (
    *extent.WHOLE,
    *routing.HYPOTHESES,
    *weighting.HYPOTHESES,
    *placement.HYPOTHESES,
    *gate_up.HYPOTHESES,
    *activation.HYPOTHESES,
    *bias.HYPOTHESES,
    *decoding.HYPOTHESES,
    *quantising.HYPOTHESES,
    *absent.HYPOTHESES,
    *permutation.HYPOTHESES,
    *shared.HYPOTHESES,
    *extent.HYPOTHESES,
    *omni.HYPOTHESES,
    *arithmetic.HYPOTHESES,
)

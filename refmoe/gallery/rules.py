"""How other test suites compare an output with its reference: accept, or not.

Each rule is restated from the tests that publish it, with the tolerances that they use
for 16-bit or 4-bit experts. None of them knows the layer; all see two tensors.

Shapes: reference and got f[...], the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Rule:
    """A comparison, and the tests that it comes from."""

    name: str
    source: str
    accepts: Callable[[Tensor, Tensor], bool]


def all_close(reference: Tensor, got: Tensor, absolute: float, relative: float) -> bool:
    """|got - reference| <= absolute + relative |reference| everywhere."""
    return bool(
        ((got - reference).abs() <= absolute + relative * reference.abs()).all()
    )


def mostly_close(
    reference: Tensor, got: Tensor, absolute: float, relative: float, share: float
) -> bool:
    """The same for at least a share of the elements.

    The relative part is of what was returned: these tests pass it as the second operand
    of isclose.
    """
    if not bool(got.isfinite().all()):
        return False
    near = (got - reference).abs() <= absolute + relative * got.abs()
    return bool(near.double().mean() >= share) if near.numel() else True


def near_or_related(reference: Tensor, got: Tensor) -> bool:
    """97 % of elements closer than 1.5 standard deviations, or than half of themselves.

    The first bound is at least 0.05.
    """
    if reference.numel() < 2:
        return True
    spread = max(float(reference.std()), 0.01)
    error = (got - reference).abs()
    near = (error < max(0.05, 1.5 * spread)) | (error < 0.5 * reference.abs())
    return bool(near.double().mean() >= 0.97)


def relative_to_the_peak(
    reference: Tensor, got: Tensor, of_peak: float, relative: float
) -> bool:
    """|got - reference| <= of_peak max|reference| + 1e-3 + relative |reference|."""
    if not reference.numel():
        return True
    peak = of_peak * float(reference.abs().max()) + 1e-3
    return all_close(reference, got, peak, relative)


def direction_differs_by(reference: Tensor, got: Tensor) -> float:
    """1 - 2 <x, y> / (|x|^2 + |y|^2), in float64."""
    x, y = reference.double(), got.double()
    total = float((x * x + y * y).sum())
    return 1.0 - 2.0 * float((x * y).sum()) / total if total else 0.0


def normalised(reference: Tensor, got: Tensor, most: float, rms: float) -> bool:
    """Errors over max(rms of the reference, |reference|): their largest and rms."""
    if not reference.numel():
        return True
    size = float(reference.square().mean().sqrt())
    error = (got - reference).abs() / reference.abs().clamp(min=max(size, 1e-30))
    return bool(error.max() <= most) and bool(error.square().mean().sqrt() <= rms)


RULES = (
    Rule(
        "allclose 2e-2",
        "vLLM tests/kernels/moe/test_moe.py: atol 2e-2, rtol 0",
        lambda r, g: all_close(r, g, 2e-2, 0.0),
    ),
    Rule(
        "allclose 1e-2 + 10 %",
        "SGLang test_fused_moe.py: atol 1e-2, rtol 1e-1",
        lambda r, g: all_close(r, g, 1e-2, 1e-1),
    ),
    Rule(
        "allclose 1e-2 + 1 %",
        "KernelBench, bf16: atol and rtol 1e-2",
        lambda r, g: all_close(r, g, 1e-2, 1e-2),
    ),
    Rule(
        "allclose 5e-2 + 5 %",
        "gpu-mode reference-kernels, MoE in MXFP4: atol and rtol 5e-2",
        lambda r, g: all_close(r, g, 5e-2, 5e-2),
    ),
    Rule(
        "95 % within 1e-2 or 1 %",
        "flashinfer-bench, MoE: 95 % of elements",
        lambda r, g: _either(r, g, 1e-2, 1e-2, 0.95),
    ),
    Rule(
        "92.5 % within 0.1 + 85 %",
        "FlashInfer trtllm-gen tests, FP4: isclose, 92 to 92.5 %",
        lambda r, g: mostly_close(r, g, 0.1, 0.85, 0.925),
    ),
    Rule(
        "79 % within 0.1 + 85 %",
        "FlashInfer trtllm-gen tests, FP8 blocks: isclose, 79 %",
        lambda r, g: mostly_close(r, g, 0.1, 0.85, 0.79),
    ),
    Rule(
        "97 % within 1.5 sigma or 50 %",
        "FlashInfer CuteDSL tests, check_accuracy",
        near_or_related,
    ),
    Rule(
        "15 % of the peak + 85 %",
        "FlashInfer fuzz test, MXFP8 and FP8 blocks",
        lambda r, g: relative_to_the_peak(r, g, 0.15, 0.85),
    ),
    Rule(
        "5 % of the peak + 5 %",
        "FlashInfer fuzz test, bf16",
        lambda r, g: relative_to_the_peak(r, g, 0.05, 0.05),
    ),
    Rule(
        "direction 1e-2",
        "DeepGEMM calc_diff, one operand in FP4",
        lambda r, g: direction_differs_by(r, g) < 1e-2,
    ),
    Rule(
        "direction 1e-3",
        "DeepGEMM calc_diff, FP8; vLLM and SGLang copy it",
        lambda r, g: direction_differs_by(r, g) < 1e-3,
    ),
    Rule(
        "2e-2 and 4e-3 of the rms",
        "triton_kernels assert_close",
        lambda r, g: normalised(r, g, 2e-2, 4e-3),
    ),
)


def _either(
    reference: Tensor, got: Tensor, absolute: float, relative: float, share: float
) -> bool:
    error = (got - reference).abs()
    near = (error <= absolute) | (error <= relative * reference.abs())
    return bool(near.double().mean() >= share) if near.numel() else True

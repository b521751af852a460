"""What a call must return for a problem: shape and element types of each result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from oracle.numerics import Numerics
from refmoe.problem import Problem
from refmoe.protocol import OPS, Field
from refmoe.regimes.randn import scale_shape
from refmoe.regimes.regime import TORCH

#: What a result may be: a subclass of Tensor answers comparisons as it likes.
PLAIN = (torch.Tensor, torch.nn.Parameter)
_FLOATS = tuple(TORCH.values())
_INDEX = (torch.int64, torch.int32)
_BYTES = (
    torch.uint8,
    torch.int8,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e8m0fnu,
)


@dataclass(frozen=True, slots=True)
class Expected:
    """Shape and admissible types of one result; the first type is the usual one."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]


def expected(problem: Problem) -> dict[str, Expected]:
    """Every result of the problem's op by name, optional ones included."""
    sizes = _sizes(problem)
    return {
        field.name: Expected(
            _shape(field, problem, sizes),
            _dtypes(field, problem, problem.numerics),
        )
        for field in OPS[problem.case.op].results
    }


def violation(name: str, got: Any, want: Expected) -> str | None:
    """The sentence that says how `got` fails `want`; None if it fits."""
    if not isinstance(got, torch.Tensor):
        return f"{name} is a {type(got).__name__}; return a tensor"
    if type(got) not in PLAIN:
        return f"{name} is a {type(got).__name__}; return a plain torch.Tensor"
    if tuple(got.shape) != want.shape:
        return f"{name} has shape {tuple(got.shape)}; want {want.shape}"
    if got.dtype not in want.dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in want.dtypes)
        return f"{name} is {str(got.dtype).removeprefix('torch.')}; want {names}"
    return None


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """FP8 tensors as the u8 that they are made of; others as they are."""
    if tensor.dtype.itemsize == 1 and tensor.dtype.is_floating_point:
        return tensor.view(torch.uint8)
    return tensor


def _sizes(problem: Problem) -> dict[str, int]:
    layer, inputs = problem.layer, problem.inputs
    sizes = {
        "T": problem.case.T, "H": layer.hidden, "I": layer.intermediate,
        "2I": layer.gate_up_rows, "E": layer.experts, "E + 1": layer.experts + 1,
        "k": layer.top_k, "N": layer.gate_up_rows, "K": layer.hidden,
        "n": math.isqrt(layer.experts),
    }  # fmt: skip
    if problem.case.op == "permute":
        sizes["R"] = int((inputs["ids"] < layer.experts).sum())
    elif problem.case.op in ("grouped_quantize", "grouped_gemm"):
        sizes["R"] = len(inputs["x"])
    elif problem.case.op == "activate":
        sizes["R"] = len(inputs["gate_up"])
    return sizes


def _shape(field: Field, problem: Problem, sizes: dict[str, int]) -> tuple[int, ...]:
    if field.dtype == "scales":
        return scale_shape(tuple(problem.inputs["x"].shape), problem.inputs["format"])
    return tuple(sizes[symbol] for symbol in field.shape)


def _dtypes(
    field: Field, problem: Problem, numerics: Numerics
) -> tuple[torch.dtype, ...]:
    plain = {
        "x": problem.layer.dtype,
        "out": numerics.output or problem.layer.dtype,
        "intermediate": numerics.intermediate,
    }.get(field.dtype)
    if plain is not None:
        return (TORCH[plain],) if plain in TORCH else _FLOATS
    if field.dtype == "index":
        return _INDEX
    if field.dtype == "codes":
        return _BYTES
    if field.dtype == "scales":
        scale = problem.inputs["format"].scale
        return (TORCH[scale],) if scale in TORCH else _BYTES
    return (torch.float32, torch.bfloat16, torch.float16, torch.float64)

"""What a call must return for a problem: shape and element types of each result."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from oracle.numerics import Numerics
from refmoe.problem import Problem
from refmoe.protocol import OPS, Field
from refmoe.regimes.randn import scale_shape
from refmoe.regimes.regime import TORCH
from refmoe.verdict import Verdict

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
    """Shape and admissible types of one result; the first type is the usual one.

    `judged` picks the rows that are judged (None: all); nobody asks for the others.
    """

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    judged: torch.Tensor | None = None

    def of(self, got: torch.Tensor) -> torch.Tensor:
        """The judged rows of a result."""
        return got if self.judged is None else got[self.judged.to(got.device)]


def expected(problem: Problem) -> dict[str, Expected]:
    """Every result of the problem's op by name, optional ones included."""
    sizes = _sizes(problem)
    return {
        field.name: Expected(
            _shape(field, problem, sizes),
            _dtypes(field, problem, problem.numerics),
            _judged(field, problem),
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


def located(verdict: Verdict, problem: Problem) -> Verdict:
    """A verdict on sampled tokens with its place among all of them."""
    if problem.sample is None or not verdict.index:
        return verdict
    row = verdict.index[0]
    token = int(problem.sample[row])
    detail = verdict.detail.replace(f"token {row} ", f"token {token} ", 1)
    return replace(verdict, index=(token, *verdict.index[1:]), detail=detail)


def _sizes(problem: Problem) -> dict[str, int]:
    layer, inputs = problem.layer, problem.inputs
    sizes = {
        "T": problem.case.T, "H": layer.hidden, "I": layer.intermediate,
        "2I": layer.gate_up_rows, "E": layer.experts, "E + 1": layer.experts + 1,
        "k": layer.top_k, "N": layer.gate_up_rows, "K": layer.hidden,
        "n": math.isqrt(layer.experts),
    }  # fmt: skip
    op, local = problem.case.op, inputs.get("local")
    if op == "permute":
        start, stop = local or (0, layer.experts)
        ids = inputs["ids"]
        sizes["R"] = int(((ids >= start) & (ids < stop)).sum())
        sizes["E + 1"] = stop - start + 1
    elif op in ("grouped_quantize", "grouped_gemm"):
        sizes["R"] = len(inputs["x"])
    elif "gate_up" in inputs:
        sizes["R"] = len(inputs["gate_up"])
    return sizes


def _shape(field: Field, problem: Problem, sizes: dict[str, int]) -> tuple[int, ...]:
    if field.dtype == "scales":
        return _scale_shape(problem, (sizes.get("R", 0), sizes["I"]))
    return tuple(sizes[symbol] for symbol in field.shape)


def _scale_shape(problem: Problem, intermediate: tuple[int, ...]) -> tuple[int, ...]:
    inputs, form = problem.inputs, problem.inputs["format"]
    shape = tuple(inputs["x"].shape) if "x" in inputs else intermediate
    rows, whole = form.block[0], scale_shape(shape, form)
    if "offsets" not in inputs or rows == 1:
        return whole
    # Each expert's region has scales of its own, even without rows if they share one.
    counts = inputs["offsets"].diff()
    each = -(-counts // rows) if rows else torch.ones_like(counts)
    return (int(each.sum()), *whole[1:])


def _judged(field: Field, problem: Problem) -> torch.Tensor | None:
    """The sampled tokens; rows that belong to an expert, where bytes are asked for."""
    if problem.sample is not None:
        return problem.sample
    if problem.case.slots != "tail" or problem.case.op != "grouped_quantize":
        return None
    per_row = problem.inputs["format"].block[0] == 1
    if field.name == "codes" or (field.name == "scales" and per_row):
        return torch.arange(int(problem.inputs["offsets"][-1]))
    return None


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

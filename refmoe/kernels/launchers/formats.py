"""Block formats and tensor shapes as the kernels' structs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import torch

from oracle import formats
from oracle.spec import BlockFormat
from oracle.spec.blocks import POWER_RULES, Apply, Recipe, ScaleRule, ScaleType

Struct = np.ndarray[Any, Any]

#: Bytes that a thread loads at once.
VECTOR = 16

#: Types of x that the kernels read, under their CUDA names.
TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
ELEMENTS = ("e2m1", "e2m3", "e3m2", "e4m3", "e5m2", "int8", "int4", "mxint8")
#: The enumerators of rounding.cuh.
ROUNDINGS = {
    "nearest_even": "kNearestEven",
    "half_away": "kHalfAway",
    "half_toward_zero": "kHalfTowardZero",
    "toward_zero": "kTowardZero",
}
#: The enumerators of Kind.
KINDS = ("kPower", "kMultiplied", "kDivided")
_STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

#: struct Format of scales.cuh, field by field.
FORMAT = np.dtype(
    [(name, np.int32) for name in (
        "rows", "columns", "scale_type", "rule", "apply", "recipe", "nonfinite",
        "minimum_byte", "keep_negative_zero", "has_zero_scale", "element", "kind",
        "largest_exponent",
    )]
    + [("round_up_past", np.uint32)]
    + [(name, np.float32) for name in ("maximum", "amax_floor", "zero_scale")]
)  # fmt: skip
#: struct Shape of blocks.cuh.
SHAPE = np.dtype(
    [(name, np.int64) for name in ("leads", "rows", "columns", "down", "across")]
)


@dataclass(frozen=True, slots=True)
class Geometry:
    """A tensor [leads, rows, columns] cut into blocks of block_rows x block_columns."""

    leads: int
    rows: int
    columns: int
    block_rows: int
    block_columns: int

    @classmethod
    def of(cls, op: str, shape: torch.Size, format: BlockFormat) -> Geometry:
        """The geometry of a tensor; ValueError where its blocks do not divide it."""
        if not shape:
            raise ValueError(
                f"{op}: a tensor without axes has no blocks; give [..., K]"
            )
        rows = shape[-2] if len(shape) > 1 else 1
        sizes = (rows, shape[-1])
        blocks = [
            size or length or 1
            for size, length in zip(format.block, sizes, strict=True)
        ]
        for name, length, block in zip(("rows", "columns"), sizes, blocks, strict=True):
            if length % block and not format.ragged:
                raise ValueError(
                    f"{op}: {length} {name} do not divide into blocks of {block} "
                    f"({format.name}); pad them, or take a format with ragged=True"
                )
        return cls(math.prod(shape[:-2]), rows, shape[-1], *blocks)

    @property
    def down(self) -> int:
        return -(-self.rows // self.block_rows)

    @property
    def across(self) -> int:
        return -(-self.columns // self.block_columns)

    @property
    def blocks(self) -> int:
        return self.leads * self.down * self.across

    @property
    def per_lead(self) -> int:
        return self.rows * self.columns

    @property
    def elements(self) -> int:
        return self.leads * self.per_lead

    def scales(self, shape: torch.Size) -> tuple[int, ...]:
        """Shape of the scales of a tensor of this shape with these blocks."""
        counts = (self.down, self.across) if len(shape) > 1 else (self.across,)
        return (*shape[:-2], *counts)

    def lanes(self, size: int) -> int:
        """Over how many lanes of 16 bytes a one-row block spreads; 0 if it cannot.

        `size` is the bytes of a value; the tensor starts at a multiple of 16 bytes.
        """
        lanes = self.block_columns * size // VECTOR
        fits = (
            self.block_rows == 1
            and self.block_columns * size % VECTOR == 0
            and self.columns % self.block_columns == 0
            and 1 <= lanes <= 32
            and lanes & (lanes - 1) == 0
        )
        return lanes if fits else 0

    def vector(self, size: int) -> int:
        """Values that a thread may load at once: 16 bytes of one block's row, or 1."""
        values = VECTOR // size
        return (
            values if self.columns % values == 0 == self.block_columns % values else 1
        )

    def struct(self) -> Struct:
        """As struct Shape."""
        values = (self.leads, self.rows, self.columns, self.down, self.across)
        return np.array([values], SHAPE)


#: Lanes that work out the scales of four vectors, at most.
SCALING_LANES = 4


@lru_cache(maxsize=1024)
def format_struct(format: BlockFormat, block_rows: int, block_columns: int) -> Struct:
    """A format as struct Format, its blocks' size resolved.

    Raises ValueError for numbers that fp32 does not hold, which the kernels compute in.
    """
    element = formats.get(format.element)
    maximum = format.maximum or element.maximum
    significand, exponent = math.frexp(maximum)
    zero_scale = 0.0 if format.zero_scale is None else format.zero_scale
    for name, number in (("maximum", maximum), ("zero_scale", zero_scale)):
        if float(np.float32(number)) != number:
            raise ValueError(
                f"{format.name}: {name}={number} is no fp32 number; the kernels take "
                f"the nearest, {float(np.float32(number))!r}"
            )
    if format.scale == "e8m0" and zero_scale and math.frexp(zero_scale)[0] != 0.5:
        raise ValueError(
            f"{format.name}: zero_scale={zero_scale} is no power of two, which an e8m0 "
            "scale must be"
        )
    past = {
        "floor": 2**23,
        "ceil": 0,
        "even": 2**23 - 2 ** (22 - element.mantissa) - 1,
        "rceil": int((2 * significand - 1) * 2**23),
    }
    values = (
        block_rows, block_columns, get_args(ScaleType).index(format.scale),
        get_args(ScaleRule).index(format.scale_rule),
        get_args(Apply).index(format.apply), get_args(Recipe).index(format.recipe),
        int(format.nonfinite == "saturate"), format.minimum_byte,
        int(format.keep_negative_zero), int(format.zero_scale is not None),
        ELEMENTS.index(format.element), KINDS.index(kind(format)), exponent - 1,
        past.get(format.scale_rule, 0), maximum, format.amax_floor,
        zero_scale,
    )  # fmt: skip
    return np.array([values], FORMAT)


def type_code(dtype: torch.dtype) -> np.int32:
    """The enumerator of ScaleType for a type of x, which naive kernels look up."""
    return np.int32(get_args(ScaleType).index(TYPES[dtype]))


def scale_dtype(format: BlockFormat) -> torch.dtype:
    """The type that a format's scales are stored in."""
    return _STORED.get(format.scale, torch.uint8)


def code_dtype(format: BlockFormat) -> torch.dtype:
    """The type that a format's codes are stored in."""
    return formats.get(format.element).storage


def instance(
    kernel: str, dtype: torch.dtype, format: BlockFormat, *more: object
) -> str:
    """A kernel template's expression: (type of x, element, rounding, kind, ...)."""
    element = f"element::{format.element}"
    names = (TYPES[dtype], element, ROUNDINGS[format.rounding], kind(format))
    return f"{kernel}<{', '.join((*names, *map(str, more)))}>"


def kind(format: BlockFormat) -> str:
    """The enumerator of Kind in scales.cuh: how a scale comes about and is applied."""
    if format.scale == "e8m0":
        return "kPower"
    if format.scale == "e4m3":
        return "kDivided" if format.recipe == "modelopt" else "kMultiplied"
    divided = format.scale_rule not in POWER_RULES and format.apply == "divide"
    return "kDivided" if divided else "kMultiplied"

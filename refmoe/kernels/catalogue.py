"""Every kernel instance that the launchers ask for in ordinary use, by file.

What `warm_up` compiles ahead of time, and what the tests compile for every
architecture. An instance that is not listed compiles when it is first called.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from refmoe.kernels import cache

#: What only checks of the element formats launch.
_CHECKED = "convert.cu"


@lru_cache(maxsize=1)
def instances() -> dict[str, tuple[str, ...]]:
    """File name -> expressions; what takes longest to compile comes first in both."""
    return {
        "quantize.cu": _quantize(),
        "grouped_mma.cu": _tensor_cores(),
        "route.cu": _route(),
        "activation.cu": _activation(),
        "omni_staircase.cu": _staircase(),
        "dequantize.cu": _dequantize(),
        "grouped.cu": _grouped(),
        "permute.cu": _permute(),
        "route_naive.cu": tuple(f"route_naive<{t}>" for t in _TYPES),
        "combine.cu": _combine(),
        "omni.cu": _omni(),
        "omni_experts.cu": _omni_experts(),
        "grouped_gemm.cu": tuple(f"gemm_naive<{curve}>" for curve in _COMMON),
        "prepare.cu": tuple(
            f"{kernel}<{interleaved}>"
            for kernel in ("pack_codes", "pack_scales")
            for interleaved in ("false", "true")
        ),
        "rows.cu": _rows(),
        _CHECKED: _convert(),
    }


def launched() -> dict[str, tuple[str, ...]]:
    """`instances` without those that only checks launch."""
    return {file: found for file, found in instances().items() if file != _CHECKED}


def warm_up(target: str, workers: int | None = None) -> dict[str, float]:
    """Compile what launchers ask for, for `target`, into the disk cache, side by side.

    Returns the seconds that each file took; next to nothing where it was there already.
    """
    files = launched()

    def build(file: str) -> float:
        start = time.perf_counter()
        cache.fetch(file, files[file], target)
        return time.perf_counter() - start

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        # The longest come first: they decide when the last worker is done.
        return dict(zip(files, pool.map(build, files), strict=True))


def _convert() -> tuple[str, ...]:
    names = ("e2m1", "e2m3", "e3m2", "e4m3", "e5m2")
    floats = tuple(f"element::{name}" for name in names)
    formats = (*floats, "element::int8", "element::int4", "element::mxint8")
    roundings = ("kNearestEven", "kHalfAway", "kHalfTowardZero", "kTowardZero")
    return (
        *(f"encode_elements<{f}, {r}>" for f in formats for r in roundings),
        *(f"decode_elements<{f}>" for f in formats),
        *(f"encode_finite_elements<{f}, {short}, {four}>" for f in formats
          for short in ("true", "false") for four in ("true", "false")),
        *(f"quotient_elements<{short}>" for short in ("true", "false")),
        *(f"{kernel}<{t}>" for kernel in ("round_elements", "widen_elements")
          for t in ("bf16", "fp16")),
    )  # fmt: skip


_TYPES = ("bf16", "fp16", "fp32")
#: Values of 16 bytes.
_WIDE = {"bf16": 8, "fp16": 8, "fp32": 4}
_ELEMENTS = ("e2m1", "e2m3", "e3m2", "e4m3", "e5m2", "mxint8", "int8", "int4")
#: Kinds of scales with the elements that the usual presets put under them.
_KINDS = {
    "kPower": ("e2m1", "e2m3", "e3m2", "e4m3", "e5m2", "mxint8"),
    "kMultiplied": ("e2m1",),
    "kDivided": ("e4m3", "int8", "int4"),
}
#: What types of x other than bf16 are compiled with: a type and an element meet in no
#: line of code, so every pair of choices is there without every triple.
_SAMPLE = (("kPower", "e4m3"), ("kDivided", "int8"))


def _scaling(arguments: str) -> int:
    """How many lanes work out the scales of blocks under `_formats`' arguments."""
    return 2 if arguments.startswith("bf16, element::e2m1, kNearestEven, kM") else 4


def _formats(kind_elements: dict[str, tuple[str, ...]]) -> list[str]:
    """Template arguments (type of x, element, rounding, kind) of quantising kernels."""
    pairs = [(k, e) for k, elements in kind_elements.items() for e in elements]
    triples = [("bf16", k, e) for k, e in pairs]
    triples += [
        (t, k, e) for t in ("fp16", "fp32") for k, e in pairs if (k, e) in _SAMPLE
    ]
    return [f"{t}, element::{e}, kNearestEven, {k}" for t, k, e in triples]


def _quantize() -> tuple[str, ...]:
    formats = _formats(_KINDS)
    tiled = _formats({"kDivided": ("e4m3", "int8")})
    whole = "bf16, element::e4m3, kNearestEven, kDivided"
    return (
        *(f"quantize_tiles<{f}, {_WIDE[f[:4]]}>" for f in reversed(tiled)),
        *(f"quantize_groups<{f}, {_scaling(f)}, i64>" for f in reversed(formats)),
        "quantize_naive<kNearestEven>",
        f"quantize_tiles<{whole}, 1>",
        f"quantize_whole<{whole}, 8>",
        *(f"whole_amax<{t}, {_WIDE[t]}>" for t in _TYPES),
        "whole_amax_naive",
        "whole_scales",
    )


def _dequantize() -> tuple[str, ...]:
    formats = [f"bf16, element::{e}" for e in _ELEMENTS]
    formats += [f"{t}, element::e2m1" for t in ("fp16", "fp32")]
    return ("dequantize_naive", *(f"dequantize_vectors<{f}>" for f in formats))


def _grouped() -> tuple[str, ...]:
    formats = _formats({"kPower": ("e4m3", "e2m1"), "kMultiplied": ("e2m1",)})
    return (
        "grouped_naive<kNearestEven, i32>",
        *(f"grouped_lanes<{f}, {_scaling(f)}, i32>" for f in formats),
        "grouped_amax<i32>",
        "linear_scales<i32>",
    )


def _tensor_cores() -> tuple[str, ...]:
    """One tile for the operands of released models; others take a second when met."""
    bf16, e4m3 = "Values<bf16>", "Bytes<element::e4m3>"
    kinds = (f"{bf16}, {bf16}, {{}}, 0, 1, 4, 4", f"{bf16}, Nibbles, {{}}, 2, 1, 4, 1",
             f"{e4m3}, {e4m3}, {{}}, 4, 1, 4, 1")  # fmt: skip
    return tuple(
        f"gemm_mma<bf16, {kind.format(curve)}, 4, 4>"
        for kind in kinds
        for curve in _COMMON
    )


def _rows() -> tuple[str, ...]:
    pairs = ((t, out) for t in _TYPES for out in dict.fromkeys((t, "fp32")))
    return ("sigmoid_values", *(f"weigh_rows<{t}, {out}>" for t, out in pairs))


def _permute() -> tuple[str, ...]:
    by_id = (
        "permute_naive",
        "count_chunks",
        "place_slots",
        "invert_rows",
        "pad_regions",
    )
    return (
        *(f"{kernel}<{index}>" for kernel in by_id for index in ("i32", "i64")),
        "scan_chunks",
        "block_owners",
        *(
            f"gather_rows<{t}, {n}, i64>"
            for t, n in (("bf16", 8), ("fp16", 8), ("fp32", 4), ("u8", 16))
        ),
        *(f"gather_rows<{t}, 1, i64>" for t in (*_TYPES, "u8")),
    )


def _combine() -> tuple[str, ...]:
    return tuple(
        f"combine_rows<{t}, fp32, {t}, i64, {n}>" for t in _TYPES for n in (1, _WIDE[t])
    )


def _activation() -> tuple[str, ...]:
    curves = (
        "kSwiglu", "kGegluTanh", "kGegluErf", "kSoftcap", "kSilu", "kGeluErf", "kRelu2",
        "kIdentity",
    )  # fmt: skip
    formats = ("e4m3, kNearestEven, kPower", "e4m3, kNearestEven, kDivided")
    return (
        *(f"activate_quantize<{t}, bf16, kSwiglu, element::{f}, 2, i64>"
          for t in ("bf16", "fp32") for f in reversed(formats)),
        *(f"activate_rows<bf16, bf16, {c}, 8, i64>" for c in curves),
        "activate_rows<bf16, bf16, kSwiglu, 1, i64>",
        *(f"activate_rows<{t}, {t}, kSwiglu, {_WIDE[t]}, i64>"
          for t in ("fp16", "fp32")),
        "activate_rows<fp32, bf16, kSwiglu, 4, i64>",
    )  # fmt: skip


def _route() -> tuple[str, ...]:
    scores = ("kSoftmax", "kSigmoid", "kSqrtSoftplus", "kIdentityScore")
    return (
        *(f"route_warps<fp32, kSoftmax, {v}>" for v in (32, 4, 1)),
        *(f"route_warps<fp32, {s}, 8>" for s in scores),
        "route_warps<bf16, kSoftmax, 4>",
    )


#: What follows a GEMM in the models that are most in use.
_COMMON = ("kPlain", "kSwiglu")
_LOGITS = ("fp32, fp32", "bf16, fp32", "bf16, bf16", "fp16, fp16")


def _omni() -> tuple[str, ...]:
    return (
        *(f"omni_route_naive<{t}, i32>" for t in _LOGITS),
        *(f"omni_route_backward<{t}, i32>" for t in _TYPES),
    )


def _staircase() -> tuple[str, ...]:
    spreads = ("1, 1", "1, 2", "4, 1", "8, 1")
    return (
        *(f"omni_route_staircase<{t}, i32, 1, 1, 4>" for t in _LOGITS),
        "omni_route_staircase<fp32, fp32, i32, 4, 1, 4>",
        *(f"omni_route_staircase<fp32, fp32, i32, 1, {s}>" for s in spreads),
    )


def _omni_experts() -> tuple[str, ...]:
    return tuple(
        f"omni_experts<{t}, fp32, i32, {n}>" for t in _TYPES for n in (1, _WIDE[t])
    )

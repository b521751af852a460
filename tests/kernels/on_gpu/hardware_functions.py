"""Elementary functions of fp32 on the GPU: errors over all patterns, bits of some."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .hardware_units import function

TEXT = Path(__file__).with_name("hardware_functions.cu")
FUNCTIONS = (
    "rcp_approx", "rcp_approx_ftz", "ex2_approx", "ex2_approx_ftz", "lg2_approx",
    "rsqrt_approx", "sqrt_approx", "tanh_approx", "fast_expf", "fast_logf",
    "fast_divide", "exp_f", "log1p_f", "tanh_f", "erf_f", "sqrt_f", "divide",
)  # fmt: skip
EXPRESSIONS = tuple(
    f"{kernel}<{name}>" for name in FUNCTIONS for kernel in ("results", "errors")
)
#: Binades whose results go into a digest: 1 to 2 and its neighbours.
BINADES = {"0.5": 0x3F000000, "1": 0x3F800000, "2": 0x40000000, "-1": 0xBF800000}
#: Patterns whose results are kept: limits, subnormals, powers of two, random ones.
SAMPLES = (
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x00400000, 0x007FFFFF, 0x00800000,
    0x00FFFFFF, 0x01000000, 0x3F000000, 0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3FC00000,
    0x40000000, 0x40400000, 0x42955555, 0x42B17218, 0x42B20000, 0x42FC0000, 0x43000000,
    0x43010000, 0x43150000, 0xC2FC0000, 0xC3010000, 0xC3150000, 0xC3160000, 0x7E000000,
    0x7E7FFFFF, 0x7E800000, 0x7E800001, 0x7F000000, 0x7F7FFFFF, 0x7F800000, 0xFF800000,
    0x7FC00000, 0xBF800000, 0xBF000000, 0xC0000000, 0x40490FDB, 0x3EAAAAAB, 0x43E00000,
)  # fmt: skip


#: What they approximate, in fp64.
_EXACT = {
    "rcp": torch.reciprocal, "ex2": torch.exp2, "lg2": torch.log2, "exp": torch.exp,
    "rsqrt": torch.rsqrt, "sqrt": torch.sqrt, "tanh": torch.tanh, "erf": torch.erf,
    "fast_expf": torch.exp, "fast_logf": torch.log, "fast_divide": torch.reciprocal,
    "log1p": torch.log1p, "divide": torch.reciprocal,
}  # fmt: skip


def reference(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The fp64 function that an elementary function approximates."""
    return _EXACT.get(name) or _EXACT[name.split("_")[0]]


def measure(name: str) -> dict[str, Any]:
    """Everything that is kept of one function."""
    digests = {
        label: hashlib.sha256(_results(name, first).numpy().tobytes()).hexdigest()
        for label, first in BINADES.items()
    }
    counts, worst = _errors(name)
    return {
        "sha256 of a binade's bits": digests,
        "not nearest": counts[0],
        "flushed": counts[1],
        "other infinities or NaNs": counts[2],
        "samples": {f"{x:08x}": f"{_one(name, x):08x}" for x in SAMPLES},
        "every 2^17th of [1, 2)": [
            f"{bits & 0xFFFFFFFF:08x}"
            for bits in _results(name, BINADES["1"])[:: 1 << 17].tolist()
        ],
        "ulps by exponent": worst,
    }


def _results(name: str, first: int) -> torch.Tensor:
    """Bits of a function over the 2^23 patterns from `first` on."""
    out = torch.zeros(1 << 23, dtype=torch.int32, device="cuda")
    kernel = function(TEXT, EXPRESSIONS, f"results<{name}>")
    torch.cuda.synchronize()
    arguments = (np.uint32(first), np.uint64(out.data_ptr()))
    kernel(((1 << 23) // 256, 1, 1), (256, 1, 1), arguments)
    _wait()
    return out.cpu()


def _one(name: str, pattern: int) -> int:
    out = torch.zeros(256, dtype=torch.int32, device="cuda")
    kernel = function(TEXT, EXPRESSIONS, f"results<{name}>")
    torch.cuda.synchronize()
    kernel((1, 1, 1), (256, 1, 1), (np.uint32(pattern), np.uint64(out.data_ptr())))
    _wait()
    return int(out[0]) & 0xFFFFFFFF


def _errors(name: str) -> tuple[list[int], dict[str, list[Any]]]:
    """Counts, and by exponent of the result the largest error in ulps and its x."""
    best = torch.zeros(256, dtype=torch.int64, device="cuda")
    counts = torch.zeros(3, dtype=torch.int64, device="cuda")
    kernel = function(TEXT, EXPRESSIONS, f"errors<{name}>")
    torch.cuda.synchronize()
    arguments = (np.uint64(best.data_ptr()), np.uint64(counts.data_ptr()))
    kernel((132 * 16, 1, 1), (256, 1, 1), arguments)
    _wait()
    worst = {}
    for exponent, packed in enumerate(best.tolist()):
        if packed:
            error = struct.unpack("<d", struct.pack("<q", packed & ~0xFFFFFFFF))[0]
            x = f"{packed & 0xFFFFFFFF:08x}"
            worst[str(exponent - 127)] = [round(error, 5), x]
    return counts.tolist(), worst


def _wait() -> None:
    import cupy

    cupy.cuda.Device().synchronize()

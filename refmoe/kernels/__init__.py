"""CUDA kernels for the ops of a port, run through CuPy on PyTorch tensors.

The module is the port itself: ``refmoe verify refmoe.kernels``; on weights prepared
otherwise it is ``refmoe.kernels:interleaved`` or ``:restacked`` (`preparations`).
Nothing heavy is imported before an op or an attribute is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PORT = (
    "activate", "activate_quantize", "alignment", "batch_invariant", "combine",
    "declares", "dequantize", "deterministic", "device", "experts", "graph_safe",
    "grouped_gemm", "grouped_quantize", "moe", "name", "numerics", "omni_experts",
    "omni_route", "omni_route_backward", "on_arch", "permute", "prepare", "quantize",
    "route", "stable", "supports", "tactics",
)  # fmt: skip
_PREPARATIONS = ("interleaved", "restacked")


def __getattr__(name: str) -> Any:
    if name in _PORT:
        return getattr(import_module("refmoe.kernels.port"), name)
    if name in _PREPARATIONS:
        return import_module("refmoe.kernels.preparations").prepared(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*globals(), *_PORT, *_PREPARATIONS))

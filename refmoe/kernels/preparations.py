"""The kernels on MXFP4 weights prepared as others store them, each a port of its own.

``refmoe verify refmoe.kernels:interleaved``: restacked, padded to 128 and interleaved,
as SGLang and FlashInfer prepare GPT-OSS and DeepSeek-V4 for Hopper;
``refmoe.kernels:restacked``: up rows before gate rows, two codes a byte, unpadded.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from refmoe.kernels import port
from refmoe.kernels.launchers.prepare import pack

#: How `pack` is called, and the GEMM backends that read what it makes.
PREPARATIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "interleaved": (
        {"packing": "nibbles_sm90", "multiple": 128, "gate_first": False}, ("naive",)
    ),
    "restacked": ({"gate_first": False}, ("naive", "mma_medium", "mma_apart", "torch")),
}  # fmt: skip

#: What the kernels support, with MXFP4 weights.
_SUPPORTS = replace(port.supports, weights=("mxfp4",))


def prepared(name: str) -> SimpleNamespace:
    """The port whose `prepare` is the preparation called `name`."""
    how, backends = PREPARATIONS[name]

    def tactics(case: Any) -> tuple[str, ...]:
        forms = port.forms(case.layer)[1:] if case.op == "moe" else ()
        return (*backends, *(f"{form}:{backends[0]}" for form in forms))

    return SimpleNamespace(
        name=f"refmoe.kernels:{name}", device=port.device, numerics=port.numerics,
        declares=port.declares, stable=True, deterministic=True, batch_invariant=True,
        graph_safe=port.graph_safe, on_arch=port.on_arch, supports=_SUPPORTS,
        tactics=tactics, prepare=partial(pack, **how), experts=port.experts,
        moe=port.moe,
    )  # fmt: skip

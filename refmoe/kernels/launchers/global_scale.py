"""The scale of a whole tensor (NVFP4): from its amax, or given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from oracle.spec import BlockFormat
from refmoe.kernels.launch import Kernel, blocks_for, check
from refmoe.kernels.launchers.formats import (
    TYPES,
    Struct,
    format_struct,
    type_code,
)

if TYPE_CHECKING:
    from refmoe.kernels.launchers.quantize import Plan

_FILE = "quantize.cu"
_THREADS = 256


def global_scales(
    x: torch.Tensor, format: BlockFormat, how: Plan,
    given: torch.Tensor | float | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Both directions f32[leads, 2] of the global scale, and its decode side as kept.

    Raises ValueError for a given scale that is not positive or has another shape.
    """
    decode = torch.empty(x.shape[:-2], dtype=torch.float32, device=x.device)
    grid, amaxes = how.grid, None
    struct = format_struct(format, grid.block_rows, grid.block_columns)
    if given is not None:
        given = _given(given, decode)
    elif how.lanes:
        amaxes = amaxes_of(x, format, how, drop=True)
    else:
        amaxes = torch.zeros(grid.leads, dtype=torch.int32, device=x.device)
        Kernel(_FILE, "whole_amax_naive")(
            blocks_for(grid.blocks, 64), 64, x, amaxes, struct, grid.struct(),
            type_code(x.dtype), device=x.device,
        )  # fmt: skip
    return both_directions(amaxes, given, decode, struct), decode


def amaxes_of(
    x: torch.Tensor, format: BlockFormat, how: Plan, drop: bool
) -> torch.Tensor:
    """amax of each leading index as bits, i32[leads].

    `drop`: leave blocks out that are not finite.
    """
    grid, vector = how.grid, how.vector
    amaxes = torch.zeros(grid.leads, dtype=torch.int32, device=x.device)
    chunks = blocks_for(grid.per_lead, 8 * _THREADS * vector)
    Kernel(_FILE, f"whole_amax<{TYPES[x.dtype]}, {vector}>")(
        grid.leads * chunks, _THREADS, x, amaxes, grid.per_lead, np.int32(chunks),
        np.int32(max(how.lanes, 1)), np.int32(format.nonfinite == "saturate"),
        np.int32(drop), device=x.device,
    )  # fmt: skip
    return amaxes


def both_directions(
    amaxes: torch.Tensor | None, given: torch.Tensor | None, decode: torch.Tensor,
    struct: Struct,
) -> torch.Tensor:  # fmt: skip
    """f32[leads, 2] from amaxes or given decode scales; fills `decode`."""
    leads = decode.numel()
    wholes = torch.empty((leads, 2), dtype=torch.float32, device=decode.device)
    count = 0 if given is None else given.numel()
    Kernel(_FILE, "whole_scales")(
        blocks_for(leads, 64), 64, amaxes, given, count, wholes, decode, struct,
        leads, device=decode.device,
    )  # fmt: skip
    return wholes


def _given(given: torch.Tensor | float, decode: torch.Tensor) -> torch.Tensor:
    """A given global scale as a tensor beside the others."""
    if not isinstance(given, torch.Tensor):
        if not 0 < given < float("inf"):
            raise ValueError(
                f"quantize: global_scale={given} must be positive and finite; it is "
                "what decoding multiplies by"
            )
        return torch.full((1,), given, dtype=torch.float32, device=decode.device)
    if given.numel() != 1 and given.shape != decode.shape:
        raise ValueError(
            f"quantize: global_scale has shape {tuple(given.shape)}; give one number "
            f"or one per leading index {tuple(decode.shape)}"
        )
    dtypes = (torch.float32,)
    check("quantize", "global_scale", given, dtypes, given.shape, decode.device)
    return given

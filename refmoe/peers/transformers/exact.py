"""A change of type that must not change the values."""

from __future__ import annotations

import torch


def exactly(name: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`value` in `dtype`; raises ValueError where that would round."""
    cast = value.to(dtype)
    if not torch.equal(cast.to(value.dtype).nan_to_num(), value.nan_to_num()):
        raise ValueError(
            f"{name} of type {value.dtype} is not representable in {dtype}, in which "
            "transformers holds it; give values of that type"
        )
    return cast

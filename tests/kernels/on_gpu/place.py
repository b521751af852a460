"""Where checks run, how large they may be, and the values they start from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def name_of(dtype: torch.dtype) -> str:
    """The name of a type of DTYPES."""
    return next(name for name, value in DTYPES.items() if value == dtype)


@dataclass(frozen=True, slots=True)
class Place:
    """Where checks run, and how large they may be."""

    device: torch.device
    large: bool

    def randn(self, *shape: int, seed: int = 0) -> torch.Tensor:
        """fp32 of many binades, zeros of both signs and whole zero rows among them."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(shape, generator=generator)
        spread = torch.randint(-12, 12, (*shape[:-1], 1), generator=generator)
        x = torch.ldexp(x, spread)
        x[torch.rand(shape, generator=generator) < 0.05] = -0.0
        if x.numel():
            x.reshape(-1, shape[-1])[0] = 0.0
        return x.to(self.device)

    def ids(self, tokens: int, k: int, count: int, seed: int = 0) -> torch.Tensor:
        """Ids with -1 and idle experts among them."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(-1, count, (tokens, k), generator=generator)
        return torch.where(ids % 5 == 3, -1, ids).int().to(self.device)

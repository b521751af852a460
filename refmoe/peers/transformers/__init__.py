"""transformers' MoE blocks as ports: `refmoe.peers.transformers:deepseek_v3`, say.

A suffix names another way of running the experts: `mixtral_grouped_mm`.
"""

from __future__ import annotations

from types import SimpleNamespace

from refmoe.peers.transformers import grouped, sigmoid, softmax
from refmoe.peers.transformers.adapter import EXPERTS, port
from refmoe.peers.transformers.block import Block

BLOCKS: dict[str, Block] = {
    block.name: block for table in (softmax, sigmoid, grouped) for block in table.BLOCKS
}

__all__ = ["BLOCKS", "Block", "port"]


def __getattr__(name: str) -> SimpleNamespace:
    for experts in EXPERTS:
        block = BLOCKS.get(name.removesuffix(f"_{experts}"))
        if block is not None:
            return port(block, experts if name != block.name else "eager")
    raise AttributeError(f"{__name__} has no block {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *BLOCKS])

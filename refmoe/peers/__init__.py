"""Implementations of others as ports, each loaded by name; see `refmoe.loading`."""

from __future__ import annotations

#: Ports that a machine without a GPU can run, judged when no port is named.
_DEFAULTS = (
    "refmoe.peers.transformers:gpt_oss",
    "refmoe.peers.transformers:deepseek_v3",
    "refmoe.peers.transformers:deepseek_v4",
    "refmoe.peers.transformers:mixtral",
    "refmoe.peers.transformers:qwen3_moe",
    "refmoe.peers.torchao",
    "refmoe.peers.torch",
)


def defaults() -> tuple[str, ...]:
    """The names of the default ports."""
    return _DEFAULTS

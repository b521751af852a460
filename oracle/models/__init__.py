"""MoE layers of released models, as descriptions: `get("gpt-oss-120b")`.

Each preset says where it comes from. V: its mathematics was run against that source;
S: the source was read; C: sizes are the defaults of the configuration class in
transformers 5.23.0; T: sizes are from a third party's copy of the configuration;
"unverified": from memory. A model whose layers differ has a preset for each kind.
"""

from __future__ import annotations

import difflib

from oracle.models import deepseek, gpt_oss, noaux, qwen, sigmoid, softmax
from oracle.spec import Layer

MODELS: dict[str, Layer] = {
    layer.name: layer
    for family in (gpt_oss, deepseek, noaux, sigmoid, softmax, qwen)
    for layer in family.LAYERS
}

__all__ = ["MODELS", "get"]


def get(name: str) -> Layer:
    """The layer of the model called `name`; ValueError lists near matches.

    >>> get("deepseek-v4-flash").activation.limit
    10.0
    """
    if name in MODELS:
        return MODELS[name]
    near = difflib.get_close_matches(str(name).lower(), MODELS, n=4, cutoff=0.4)
    hint = f"near it are {', '.join(near)}" if near else "nothing is near it"
    raise ValueError(f"unknown model {name!r}: {hint}; oracle.models.MODELS lists all")

"""GPT-OSS checkpoints: MXFP4 experts whose gate and up rows alternate.

Per layer, below ``model.layers.L.mlp.`` (transformers' names) or ``block.L.mlp.`` (the
original's): packed codes u8[E, 2I, H/32, 16] and u8[E, H, I/32, 16], low nibble first,
E8M0 scales u8[E, 2I, H/32] and u8[E, H, I/32], biases bf16[E, 2I] and bf16[E, H], and
the router's bias bf16[E], which belongs to the logits. Row 2i of GEMM1 is gate i, row
2i + 1 is up i. Source: openai/gpt-oss, gpt_oss/torch/weights.py and model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch

from oracle.layouts import gate_up, nibbles, require
from oracle.params import Blocks, Params
from oracle.spec import BlockFormat, Layer, choose

Names = Literal["transformers", "original"]

_NAMES: dict[str, dict[str, str]] = {
    "transformers": {
        "gate_up": "experts.gate_up_proj_", "down": "experts.down_proj_",
        "gate_up_bias": "experts.gate_up_proj_bias",
        "down_bias": "experts.down_proj_bias",
        "router_bias": "router.bias",
    },
    "original": {
        "gate_up": "mlp1_weight.", "down": "mlp2_weight.",
        "gate_up_bias": "mlp1_bias", "down_bias": "mlp2_bias",
        "router_bias": "gate.bias",
    },
}  # fmt: skip


def from_checkpoint(
    tensors: Mapping[str, torch.Tensor], layer: Layer, names: Names = "transformers"
) -> Params:
    """One layer's tensors, by their names below ``mlp.``, as canonical parameters.

    `layer.weights` must be a format of E2M1 in blocks of 32 along K with E8M0 scales.
    Raises ValueError for a missing tensor or one that does not fit `layer`.
    """
    choose("gpt_oss", "names", names, get_args(Names))
    table = _NAMES[names]
    params = Params(
        gate_up=_blocks(tensors, table["gate_up"], layer, interleaved=True),
        down=_blocks(tensors, table["down"], layer, interleaved=False),
        gate_up_bias=gate_up.canonical(
            _find(tensors, table["gate_up_bias"]), "interleaved", axis=-1
        ),
        down_bias=_find(tensors, table["down_bias"]),
        router_bias=_find(tensors, table["router_bias"]),
    )
    params.check(layer)
    return params


def to_checkpoint(
    params: Params, names: Names = "transformers"
) -> dict[str, torch.Tensor]:
    """Undo `from_checkpoint`. Raises TypeError unless the weights are Blocks."""
    choose("gpt_oss", "names", names, get_args(Names))
    table = _NAMES[names]
    tensors: dict[str, torch.Tensor] = {}
    for name in ("gate_up", "down"):
        blocks = getattr(params, name)
        if not isinstance(blocks, Blocks):
            raise TypeError(
                f"gpt_oss: {name} is {type(blocks).__name__}; quantise it to Blocks"
            )
        codes, scales = blocks.codes, blocks.scales
        if name == "gate_up":
            codes = gate_up.arrange(codes, "interleaved")
            scales = gate_up.arrange(scales, "interleaved")
        packed = nibbles.pack(codes)
        tensors[table[name] + "blocks"] = packed.reshape(*scales.shape, 16)
        tensors[table[name] + "scales"] = scales
    for name in ("gate_up_bias", "down_bias", "router_bias"):
        bias = getattr(params, name)
        if bias is None:
            raise ValueError(f"gpt_oss: {name} is missing; the checkpoint has one")
        if name == "gate_up_bias":
            bias = gate_up.arrange(bias, "interleaved", axis=-1)
        tensors[table[name]] = bias
    return tensors


def _blocks(
    tensors: Mapping[str, torch.Tensor], name: str, layer: Layer, *, interleaved: bool
) -> Blocks:
    kind = layer.weights
    if not isinstance(kind, BlockFormat) or (kind.element, kind.block, kind.scale) != (
        "e2m1", (1, 32), "e8m0",
    ):  # fmt: skip
        raise ValueError(
            f"gpt_oss: layer.weights={kind!r} is no MXFP4; give a BlockFormat of e2m1, "
            "block (1, 32), scale e8m0"
        )
    packed, scales = _find(tensors, name + "blocks"), _find(tensors, name + "scales")
    require.dtype("gpt_oss", scales, torch.uint8)
    require.axes("gpt_oss", packed, 4)
    require.size("gpt_oss", "bytes per block", packed.shape[-1], 16)
    codes = nibbles.unpack(packed.flatten(-2))
    if interleaved:
        codes = gate_up.canonical(codes, "interleaved")
        scales = gate_up.canonical(scales, "interleaved")
    require.size("gpt_oss", name + "scales columns", scales.shape[-1], packed.shape[-2])
    return Blocks(codes, scales, kind)


def _find(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in tensors:
        raise ValueError(
            f"gpt_oss: tensor {name!r} is missing among {sorted(tensors)[:4]} ...; "
            "give one layer's tensors by their names below 'mlp.'"
        )
    return tensors[name]

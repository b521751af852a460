"""Builds a block of transformers and fills it, never rounding a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch

from oracle.blocks import dequantize
from oracle.params import Blocks, Params
from oracle.spec import Layer
from refmoe.peers.require import require
from refmoe.peers.transformers.block import Block

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32,
          "fp64": torch.float64}  # fmt: skip


def filled(
    block: Block,
    params: Params,
    layer: Layer,
    experts: str,
    wanted: Callable[[str], bool] = lambda name: True,
) -> torch.nn.Module:
    """The block for `layer`, those of its parameters that are `wanted` filled.

    `experts` is how transformers runs them.

    Raises ValueError where the block is no implementation of the layer, or a value is
    not representable in the type that transformers holds it in.
    """
    reason = block.unsupported(layer)
    if reason is not None:
        raise ValueError(f"transformers has no {block.name} with {reason}")
    module, kept = _built(block, layer, experts)
    left = dict(block.places)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        place = left.pop(name, None)
        if place is None and not name.startswith(f"{block.router}."):
            raise RuntimeError(f"{block.name}: no place fills {name!r}")
        dtype = tensor.dtype
        if tensor.is_floating_point():
            fp32 = any(pattern in f"mlp.{name}" for pattern in kept)
            dtype = torch.float32 if fp32 else DTYPES[layer.dtype]
        if place is None:
            # Matrices belong to the linear layer whose result is injected.
            value = torch.zeros_like(tensor) if tensor.ndim == 2 else tensor
        elif wanted(name):
            value = exactly(name, place(params, layer), dtype)
        else:
            value = tensor
        tensor.data = value.detach().to(dtype).contiguous()
    if left:
        raise RuntimeError(f"{block.name} has no {sorted(left)}")
    return module.eval().requires_grad_(False)


def _built(
    block: Block, layer: Layer, experts: str
) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """The empty block, and names of what its model keeps in fp32."""
    base = block.folder or block.name
    folder = f"transformers.models.{base}"
    configs = require(f"{folder}.configuration_{base}", "peers")
    models = require(f"{folder}.modeling_{base}", "peers")
    config = getattr(configs, block.config)(**block.configuration(layer))
    config._experts_implementation = experts
    if isinstance(block.module, str):
        module = getattr(models, block.module)(config, *block.arguments)
    else:
        module = block.module(models, config)
    kept = {*block.fp32}
    for value in vars(models).values():
        if isinstance(value, type):
            kept.update(getattr(value, "_keep_in_fp32_modules_strict", None) or ())
    return module, tuple(kept)


def dequantised(params: Params, layer: Layer) -> Params:
    """Every block-scaled tensor of `params` as its values in the layer's dtype."""
    values = {}
    for field in fields(params):
        value = getattr(params, field.name)
        if isinstance(value, Blocks):
            wide = dequantize(value)
            values[field.name] = exactly(field.name, wide, DTYPES[layer.dtype])
    return replace(params, **values)


def exactly(name: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`value` in `dtype`; raises ValueError where that would round."""
    cast = value.to(dtype)
    if not torch.equal(cast.to(value.dtype).nan_to_num(), value.nan_to_num()):
        raise ValueError(
            f"{name} of type {value.dtype} is not representable in {dtype}, in which "
            "transformers holds it; give values of that type"
        )
    return cast

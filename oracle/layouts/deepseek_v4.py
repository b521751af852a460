"""DeepSeek-V4 checkpoints: one MXFP4 or block-FP8 tensor per expert and projection.

Per layer, below ``layers.L.ffn.``: ``experts.E.w1`` (gate), ``w3`` (up) and ``w2``
(down), each a ``.weight`` and a ``.scale``. FP4: int8[N, K/2], low nibble first, with
E8M0 [N, K/32]; FP8: E4M3 [N, K] with E8M0 or fp32 [N/128, K/128]. The shared expert's
``shared_experts.w1`` and so on likewise; ``gate.bias`` f32[E] on the selection key, or
``gate.tid2eid`` [vocabulary, k] in layers routed by token. Source: DeepSeek-V4,
inference/model.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from oracle.layouts import nibbles, require
from oracle.params import Blocks, Params
from oracle.spec import BlockFormat, Layer

Dense = torch.Tensor | Blocks


def from_checkpoint(tensors: Mapping[str, torch.Tensor], layer: Layer) -> Params:
    """One layer's tensors, by their names below ``ffn.``, as canonical parameters.

    Raises ValueError for a missing tensor or one that does not fit `layer`.
    """
    if not isinstance(layer.weights, BlockFormat):
        raise ValueError(
            f"deepseek_v4: layer.weights={layer.weights!r} has no blocks; give the "
            "experts' BlockFormat"
        )
    kind, experts = layer.weights, range(layer.experts)
    hashed, dense = layer.routing.method == "hash", layer.shared is not None
    form = None if layer.shared is None else layer.shared.weights
    shared = form if isinstance(form, BlockFormat) else None
    params = Params(
        gate_up=_stack([_gate_up(tensors, f"experts.{e}.", kind) for e in experts]),
        down=_stack([_blocks(tensors, f"experts.{e}.w2.", kind) for e in experts]),
        router_bias=None if hashed else _find(tensors, "gate.bias"),
        hash_table=_find(tensors, "gate.tid2eid").to(torch.int64) if hashed else None,
        shared_gate_up=_shared_gate_up(tensors, shared) if dense else None,
        shared_down=_shared_down(tensors, shared) if dense else None,
    )
    params.check(layer)
    return params


def to_checkpoint(params: Params) -> dict[str, torch.Tensor]:
    """Undo `from_checkpoint`. Raises TypeError unless experts' weights are Blocks."""
    gate_up, down = params.gate_up, params.down
    if not isinstance(gate_up, Blocks) or not isinstance(down, Blocks):
        raise TypeError(
            f"deepseek_v4: gate_up is {type(gate_up).__name__} and down "
            f"{type(down).__name__}; quantise both to Blocks"
        )
    tensors: dict[str, torch.Tensor] = {}
    for e in range(gate_up.shape[0]):
        tensors |= _expert(f"experts.{e}.", gate_up[e], down[e])
    if params.router_bias is not None:
        tensors["gate.bias"] = params.router_bias
    if params.hash_table is not None:
        tensors["gate.tid2eid"] = params.hash_table.to(torch.int32)
    if params.shared_gate_up is not None and params.shared_down is not None:
        tensors |= _expert("shared_experts.", params.shared_gate_up, params.shared_down)
    return tensors


def _gate_up(
    tensors: Mapping[str, torch.Tensor], prefix: str, kind: BlockFormat
) -> Blocks:
    gate = _blocks(tensors, f"{prefix}w1.", kind)
    up = _blocks(tensors, f"{prefix}w3.", kind)
    require.multiple("deepseek_v4", "gate rows", gate.shape[-2], max(kind.block[0], 1))
    return Blocks(
        torch.cat((gate.codes, up.codes)), torch.cat((gate.scales, up.scales)), kind
    )


def _blocks(
    tensors: Mapping[str, torch.Tensor], prefix: str, kind: BlockFormat
) -> Blocks:
    """One projection; FP4 codes are unpacked, E8M0 scales become bytes."""
    codes = _find(tensors, prefix + "weight").view(torch.uint8)
    scales = _find(tensors, prefix + "scale")
    if kind.element == "e2m1":
        codes = nibbles.unpack(codes)
    rows, columns = kind.block
    want = (-(-codes.shape[-2] // rows), -(-codes.shape[-1] // columns))
    if tuple(scales.shape) != want:
        raise ValueError(
            f"deepseek_v4: {prefix}scale has shape {tuple(scales.shape)}; weights of "
            f"{tuple(codes.shape)} in format {kind.name!r} need {want}"
        )
    if kind.scale == "e8m0":
        scales = scales.view(torch.uint8)
    return Blocks(codes, scales, kind)


def _stack(experts: list[Blocks]) -> Blocks:
    codes = torch.stack([blocks.codes for blocks in experts])
    scales = torch.stack([blocks.scales for blocks in experts])
    return Blocks(codes, scales, experts[0].format)


def _shared_gate_up(
    tensors: Mapping[str, torch.Tensor], kind: BlockFormat | None
) -> Dense:
    if kind is not None:
        return _gate_up(tensors, "shared_experts.", kind)
    halves = (_find(tensors, f"shared_experts.{w}.weight") for w in ("w1", "w3"))
    return torch.cat(tuple(halves))


def _shared_down(
    tensors: Mapping[str, torch.Tensor], kind: BlockFormat | None
) -> Dense:
    if kind is not None:
        return _blocks(tensors, "shared_experts.w2.", kind)
    return _find(tensors, "shared_experts.w2.weight")


def _expert(prefix: str, gate_up: Dense, down: Dense) -> dict[str, torch.Tensor]:
    """The six (three, where nothing is quantised) tensors of one expert."""
    gate, up = _halves(gate_up)
    return {
        f"{prefix}{name}.{part}": tensor
        for name, weight in (("w1", gate), ("w3", up), ("w2", down))
        for part, tensor in _stored(weight).items()
    }


def _halves(weight: Dense) -> tuple[Dense, Dense]:
    if isinstance(weight, torch.Tensor):
        gate, up = weight.chunk(2)
        return gate, up
    codes, scales = weight.codes.chunk(2), weight.scales.chunk(2)
    return (
        Blocks(codes[0], scales[0], weight.format),
        Blocks(codes[1], scales[1], weight.format),
    )


def _stored(weight: Dense) -> dict[str, torch.Tensor]:
    if isinstance(weight, torch.Tensor):
        return {"weight": weight.contiguous()}
    codes, scales, kind = weight.codes, weight.scales.contiguous(), weight.format
    if kind.scale == "e8m0":
        scales = scales.view(torch.float8_e8m0fnu)
    packed = kind.element == "e2m1"
    return {
        "weight": nibbles.pack(codes).view(torch.int8)
        if packed
        else codes.contiguous().view(torch.float8_e4m3fn),
        "scale": scales,
    }


def _find(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in tensors:
        raise ValueError(
            f"deepseek_v4: tensor {name!r} is missing among {sorted(tensors)[:4]} ...; "
            "give one layer's tensors by their names below 'ffn.'"
        )
    return tensors[name]

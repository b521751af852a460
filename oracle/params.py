"""The layer's tensors in one canonical layout, however they are stored elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from oracle.spec import BlockFormat, Layer


@dataclass(frozen=True, slots=True)
class Blocks:
    """A block-scaled tensor: one code per element, one scale per block.

    Shapes:
        codes:  u8[..., N, K] (one code a byte, FP4 too; i8 for INT8 and INT4)
        scales: [..., ceil(N / rows), ceil(K / columns)]; u8 for E8M0 and E4M3 scales,
                else f32 or bf16; (rows, columns) is `format.block`, 0 the whole axis
        global_scale: f32[...] that decoding multiplies by, or None
    Packing two FP4 codes to a byte is a layout (`oracle.layouts.nibbles`).
    """

    codes: torch.Tensor
    scales: torch.Tensor
    format: BlockFormat
    global_scale: torch.Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor that the blocks stand for."""
        return self.codes.shape

    def __getitem__(self, index: object) -> Blocks:
        """Index the leading axes (experts), which codes and scales share."""
        scale = self.global_scale
        if scale is not None and scale.ndim:
            scale = scale[index]  # type: ignore[index]
        return Blocks(self.codes[index], self.scales[index], self.format, scale)  # type: ignore[index]


@dataclass(frozen=True, slots=True)
class Streamed:
    """Weights that are loaded one expert at a time: a checkpoint, or a generator.

    `load(e)` returns expert e's [N, K] tensor or Blocks; `shape` is (E, N, K).
    """

    load: Callable[[int], torch.Tensor | Blocks]
    shape: torch.Size

    def __getitem__(self, expert: int) -> torch.Tensor | Blocks:
        return self.load(expert)


Weight = torch.Tensor | Blocks | Streamed


@dataclass(frozen=True, slots=True)
class Params:
    """Weights of one layer; None where the layer has no such tensor.

    Shapes:
        gate_up: [E, 2I, H], gate rows first, then up rows ([E, I, H] when ungated)
        down: [E, H, I]
        gate_up_bias: [E, 2I]     down_bias: [E, H]
        router_bias: [E]          of `Routing.bias`: on the selection key or the logits
        per_expert_scale: [E]     hash_table: i64[vocabulary, k]
        alpha, beta, limit: f32[E], overriding the activation's
        x_scale, intermediate_scale: f32[], calibrated per-tensor scales that the
            activations are quantised with (None: from the tensor itself)
        shared_gate_up: [2S, H]   shared_down: [H, S]   shared_gate: [H]
    """

    gate_up: Weight
    down: Weight
    gate_up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None
    router_bias: torch.Tensor | None = None
    per_expert_scale: torch.Tensor | None = None
    hash_table: torch.Tensor | None = None
    alpha: torch.Tensor | None = None
    beta: torch.Tensor | None = None
    limit: torch.Tensor | None = None
    x_scale: torch.Tensor | None = None
    intermediate_scale: torch.Tensor | None = None
    shared_gate_up: torch.Tensor | Blocks | None = None
    shared_down: torch.Tensor | Blocks | None = None
    shared_gate: torch.Tensor | None = None

    def check(self, layer: Layer, *, experts: int | None = None) -> None:
        """Raise ValueError naming the first tensor that `layer` does not fit.

        `experts` is the number of experts held here, where that is not all of them.
        """
        e = layer.experts if experts is None else experts
        h, i = layer.hidden, layer.intermediate
        routed = layer.routed_choices
        shapes: dict[str, tuple[int, ...]] = {
            "gate_up": (e, layer.gate_up_rows, h),
            "down": (e, h, i),
            "gate_up_bias": (e, layer.gate_up_rows),
            "down_bias": (e, h),
            "router_bias": (routed,),
            "per_expert_scale": (routed,),
            "alpha": (e,),
            "beta": (e,),
            "limit": (e,),
        }
        if layer.shared is not None:
            activation = layer.shared.activation or layer.activation
            rows = layer.shared.intermediate * (2 if activation.gated else 1)
            shapes["shared_gate_up"] = (rows, h)
            shapes["shared_down"] = (h, layer.shared.intermediate)
            shapes["shared_gate"] = (h,)
        for name, want in shapes.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != want:
                raise ValueError(
                    f"Params: {name} has shape {tuple(tensor.shape)}; the layer "
                    f"{layer.name!r} needs {want}"
                )
        needed = {
            "gate_up_bias": layer.expert_bias,
            "down_bias": layer.expert_bias,
            "router_bias": layer.routing.bias != "none",
            "per_expert_scale": layer.routing.per_expert_scale,
            "hash_table": layer.routing.method == "hash",
            "shared_gate_up": layer.shared is not None,
            "shared_down": layer.shared is not None,
            "shared_gate": layer.shared is not None and layer.shared.combine == "gated",
        }
        for name, need in needed.items():
            if need and getattr(self, name) is None:
                raise ValueError(
                    f"Params: {name} is missing; the layer {layer.name!r} declares it"
                )

"""Hidden and intermediate sizes raised to multiples, without changing any result.

Kernels tile by 128 and round 2880 up to 2944. New rows and columns hold code 0, scale 1
and bias 0. A new intermediate column is then act(0) * (0 + beta) = 0 for every
activation here and adds an exact 0 through `down`; new columns of x and of the output
are 0. This needs finite x (0 * Inf is NaN) and, where activations are quantised, a zero
block that decodes to zeros.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.functional import pad as extend

from oracle.layouts.edges import raised
from oracle.params import Blocks, Params, Streamed, Weight
from oracle.spec import Layer, at_least

Dense = torch.Tensor | Blocks


def pad(params: Params, layer: Layer, multiple: int = 128) -> tuple[Params, Layer]:
    """Raise H and I to multiples of `multiple`; gate and up rows are padded apart.

    Shared experts keep their own intermediate size. Undone by `unpad`.
    Raises ValueError where a block of rows would reach from gate into up rows.
    """
    at_least("pad", "multiple", multiple, 1)
    hidden = raised(layer.hidden, multiple)
    return _resize(params, layer, hidden, raised(layer.intermediate, multiple))


def unpad(
    params: Params, layer: Layer, hidden: int, intermediate: int
) -> tuple[Params, Layer]:
    """Undo `pad`: cut H and I back to `hidden` and `intermediate`."""
    for name, size in (("hidden", hidden), ("intermediate", intermediate)):
        at_least("unpad", name, size, 1)
        if size > getattr(layer, name):
            raise ValueError(
                f"unpad: {name}={size} exceeds the padded {getattr(layer, name)}; give "
                "the size before padding"
            )
    return _resize(params, layer, hidden, intermediate)


def pad_activations(x: torch.Tensor, multiple: int = 128) -> torch.Tensor:
    """Append zero columns. Shapes: x [..., H] -> [..., raised(H, multiple)]."""
    at_least("pad_activations", "multiple", multiple, 1)
    return extend(x, (0, -x.shape[-1] % multiple))


def unpad_activations(x: torch.Tensor, hidden: int) -> torch.Tensor:
    """Undo `pad_activations`. Shapes: x [..., Hp] -> [..., hidden]."""
    if hidden > x.shape[-1]:
        raise ValueError(
            f"unpad_activations: hidden={hidden} exceeds the {x.shape[-1]} columns of x"
        )
    return x[..., :hidden].contiguous()


def _resize(
    params: Params, layer: Layer, hidden: int, intermediate: int
) -> tuple[Params, Layer]:
    halves = 2 if layer.activation.gated else 1
    resized = replace(
        params,
        gate_up=_weight(params.gate_up, intermediate, hidden, halves),
        down=_weight(params.down, hidden, intermediate),
        gate_up_bias=_vector(params.gate_up_bias, intermediate, halves),
        down_bias=_vector(params.down_bias, hidden),
        shared_gate_up=_shared(params.shared_gate_up, None, hidden),
        shared_down=_shared(params.shared_down, hidden, None),
        shared_gate=_vector(params.shared_gate, hidden),
    )
    return resized, replace(layer, hidden=hidden, intermediate=intermediate)


def _vector(x: torch.Tensor | None, size: int, halves: int = 1) -> torch.Tensor | None:
    """The last axis, `halves` runs side by side, each cut or zero-padded to `size`."""
    if x is None:
        return None
    parts = x.reshape(*x.shape[:-1], halves, x.shape[-1] // halves)
    return extend(parts, (0, size - parts.shape[-1])).flatten(-2).contiguous()


def _shared(w: Dense | None, rows: int | None, columns: int | None) -> Dense | None:
    """The shared expert's weight; None keeps an axis as it is."""
    if w is None:
        return None
    return _dense(w, rows or w.shape[-2], columns or w.shape[-1])


def _weight(w: Weight, rows: int, columns: int, halves: int = 1) -> Weight:
    if isinstance(w, Streamed):
        load, shape = w.load, torch.Size((w.shape[0], rows * halves, columns))
        return Streamed(lambda e: _dense(load(e), rows, columns, halves), shape)
    return _dense(w, rows, columns, halves)


def _dense(w: Dense, rows: int, columns: int, halves: int = 1) -> Dense:
    """`halves` runs of rows, each cut or padded to `rows` by `columns` of zeros."""
    if isinstance(w, torch.Tensor):
        return _fit(w, rows, columns, halves, 0.0)
    height, width = w.format.block
    old = w.shape[-2] // halves
    if halves == 2 and height > 1 and (old % height or rows % height):
        raise ValueError(
            f"pad: {old} gate rows to {rows} in blocks of {height}: one would hold "
            "gate and up rows; requantise gate and up apart"
        )
    scale_rows, scale_halves = (-(-rows // height), halves) if height else (1, 1)
    scale_columns = -(-columns // width) if width else 1
    one = {"e8m0": 127, "e4m3": 0x38}.get(w.format.scale, 1.0)
    return replace(
        w,
        codes=_fit(w.codes, rows, columns, halves, 0),
        scales=_fit(w.scales, scale_rows, scale_columns, scale_halves, one),
    )


def _fit(
    x: torch.Tensor, rows: int, columns: int, halves: int, fill: float
) -> torch.Tensor:
    old, width = x.shape[-2:]
    parts = x.reshape(*x.shape[:-2], halves, old // halves, width)
    more = (0, columns - width, 0, rows - old // halves)
    return extend(parts, more, value=fill).flatten(-3, -2).contiguous()

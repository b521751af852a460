"""Bytes read as words, and fields of bits moved within 32-bit little-endian words."""

from __future__ import annotations

import torch

from oracle.layouts import require

#: (lowest source bit, width, lowest target bit).
Field = tuple[int, int, int]


def reinterpret(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The same bytes as another dtype, along the last axis, whatever the strides of x.

    Shapes: x [..., n] -> [..., n * bytes of x's dtype / bytes of `dtype`]

    `Tensor.view` refuses the strides that PyTorch gives to axes of size 1.
    """
    last = x.shape[-1] * x.element_size() // dtype.itemsize
    flat = x.contiguous().as_strided((x.numel(),), (1,))
    return flat.view(dtype).reshape(*x.shape[:-1], last)


def move(octets: torch.Tensor, fields: tuple[Field, ...]) -> torch.Tensor:
    """Move the fields of every 4 bytes, taken as one little-endian word.

    Shapes: octets u8[..., 4n] -> u8[..., 4n]
    The fields must cover the 32 bits once on either side, so that `inverse` undoes it.

    >>> move(torch.tensor([1, 0, 0, 0], dtype=torch.uint8), ((0, 31, 1), (31, 1, 0)))
    tensor([2, 0, 0, 0], dtype=torch.uint8)
    """
    require.dtype("move", octets, torch.uint8)
    require.axes("move", octets, 1)
    require.multiple("move", "bytes", octets.shape[-1], 4)
    words = reinterpret(octets, torch.int32)
    moved = torch.zeros_like(words)
    for source, width, target in fields:
        moved |= ((words >> source) & ((1 << width) - 1)) << target
    return reinterpret(moved, torch.uint8)


def inverse(fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """The fields that undo `fields`."""
    return tuple((target, width, source) for source, width, target in fields)


def _slot(nibble: int) -> tuple[Field, ...]:
    """Where `FP4_FOR_BF16` puts one nibble: its 3 magnitude bits, then its sign."""
    first, half, slot = 4 * nibble, 16 * (nibble % 2), nibble // 2
    if slot == 3:
        return (
            (first, 1, half + 13), (first + 1, 2, half + 10), (first + 3, 1, half + 14)
        )  # fmt: skip
    return (first, 3, half + 6 - 3 * slot), (first + 3, 1, half + 15 - 3 * slot)


#: Eight E2M1 nibbles where masks and shifts alone make pairs of bf16 of them: nibble 2i
#: in the low half, 2i + 1 in the high half. For i < 3, ``(word << 3 * i) & 0x81C0`` per
#: half has the sign at bit 15 and the magnitude at bits 8 to 6: the value times 2^-126.
#: The fourth pair fills the gaps. Used on Hopper by TensorRT-LLM and by triton_kernels.
FP4_FOR_BF16: tuple[Field, ...] = tuple(f for n in range(8) for f in _slot(n))

#: The magnitudes stay; the signs of nibbles 0 to 3 go to bit 7 of bytes 0 to 3, those
#: of nibbles 4 to 7 to bit 3 of them, ready to become E4M3. TensorRT-LLM, FP4 x FP8.
FP4_FOR_FP8: tuple[Field, ...] = (
    *((4 * n, 3, 4 * n) for n in range(8)),
    *((4 * n + 3, 1, 8 * (n % 4) + (7 if n < 4 else 3)) for n in range(8)),
)

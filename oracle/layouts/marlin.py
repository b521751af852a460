"""Marlin's layouts of 4-bit weights and their scales (vLLM, SGLang; sm_75 and up)."""

from __future__ import annotations

import torch

from oracle.layouts import nibbles, require
from oracle.layouts.bits import reinterpret
from oracle.layouts.rearrange import rearrange
from oracle.spec import choose

# 16-bit activations: n = 64 n + 16 j + 8 a + c, k = 16 k + 8 b + 2 i + d.
# 8-bit activations: n = 32 n + 16 j + 8 a + c, k = 32 k + 16 b + 4 i + d.
_CODES = "(n j a c) (k b i d)"
_WORDS = {16: "(k n c i j d a b)", 8: "(k n c i j a d b)"}
_SIZES = {
    16: {"j": 4, "a": 2, "c": 8, "b": 2, "i": 4, "d": 2},
    8: {"j": 2, "a": 2, "c": 8, "b": 2, "i": 4, "d": 4},
}
#: Rows of K in one tile.
_TILE = {16: 16, 8: 32}


def pack_weights(codes: torch.Tensor, activation_bits: int = 16) -> torch.Tensor:
    """Reorder 4-bit codes into the fragments of one matrix instruction, 8 to a word.

    Shapes: codes u8[..., N, K] of 0 to 15 -> i32[..., K / 16, 2 N]; N a multiple of 64,
    K of 16 (of 32 for 8-bit activations)

    16 bits: with r = k % 16, c = n % 16 and g = 4 (c // 8) + 2 (r // 8) + r % 2, code
    (n, k) is nibble (0, 4, 1, 5, 2, 6, 3, 7)[g], lowest first, of word [k // 16,
    n // 64 * 128 + (c % 8 * 4 + r % 8 // 2) * 4 + n % 64 // 16].
    """
    choose("marlin", "activation_bits", activation_bits, (8, 16))
    require.axes("marlin", codes, 2)
    n, k = codes.shape[-2:]
    require.multiple("marlin", "rows", n, 64)
    require.multiple("marlin", "columns", k, _TILE[activation_bits])
    sizes = _SIZES[activation_bits]
    ordered = rearrange(codes, _CODES, _WORDS[activation_bits], **sizes)
    words = reinterpret(nibbles.pack(ordered), torch.int32)
    return words.reshape(*codes.shape[:-2], k // 16, 2 * n)


def unpack_weights(words: torch.Tensor, activation_bits: int = 16) -> torch.Tensor:
    """Undo `pack_weights`. Shapes: words i32[..., K / 16, 2 N] -> u8[..., N, K]."""
    choose("marlin", "activation_bits", activation_bits, (8, 16))
    require.dtype("marlin", words, torch.int32)
    require.axes("marlin", words, 2)
    octets = reinterpret(words, torch.uint8).flatten(-2)
    tiles = words.shape[-2] * 16 // _TILE[activation_bits]
    source, sizes = _WORDS[activation_bits], _SIZES[activation_bits]
    return rearrange(nibbles.unpack(octets), source, _CODES, k=tiles, **sizes)


# 16 bits: n = 64 n + 32 a + 16 b + 8 c + i. 8 bits: n = 32 n + 8 a + 2 i + b.
_SCALES = {16: "(n a b c i) (k)", 8: "(n a i b) (k)"}
_PERMUTED = {16: "(k) (n i a c b)", 8: "(k) (n i a b)"}
_SCALE_SIZES = {16: {"a": 2, "b": 2, "c": 2, "i": 8}, 8: {"a": 4, "i": 4, "b": 2}}


def permute_scales(scales: torch.Tensor, activation_bits: int = 16) -> torch.Tensor:
    """Order FP4 weights' scales as the dequantising threads read them.

    Shapes: scales u8[..., N, G], G > 1, N a multiple of 64 -> u8[..., G, N]

    16 bits (MXFP4 bytes, or NVFP4's after `s0e5m3`): column n of a run of 64 moves to
    8 i + 4 a + 2 c + b where n = 32 a + 16 b + 8 c + i. 8 bits (MXFP4 with E4M3
    activations): of a run of 32 to 8 i + 2 a + b where n = 8 a + 2 i + b, and every
    byte grows by 6, the difference of the exponent biases of E4M3 and E2M1.
    Raises ValueError where a byte would pass 255: largest 249.
    """
    choose("marlin", "activation_bits", activation_bits, (8, 16))
    require.dtype("marlin", scales, torch.uint8)
    require.axes("marlin", scales, 2)
    require.multiple("marlin", "rows", scales.shape[-2], 64)
    if scales.shape[-1] < 2:
        raise ValueError(
            f"marlin: scales of {scales.shape[-1]} groups along K; Marlin orders a "
            "single group otherwise, give a K of at least two"
        )
    if activation_bits == 8:
        if scales.numel() and int(scales.max()) > 249:
            raise ValueError(
                f"marlin: scale byte {int(scales.max())} exceeds 249, the largest with "
                "8-bit activations; use 16-bit ones"
            )
        scales = scales + 6
    source, target = _SCALES[activation_bits], _PERMUTED[activation_bits]
    return rearrange(scales, source, target, **_SCALE_SIZES[activation_bits])


def restore_scales(permuted: torch.Tensor, activation_bits: int = 16) -> torch.Tensor:
    """Undo `permute_scales`. Shapes: permuted u8[..., G, N] -> u8[..., N, G]."""
    choose("marlin", "activation_bits", activation_bits, (8, 16))
    require.dtype("marlin", permuted, torch.uint8)
    require.axes("marlin", permuted, 2)
    source, target = _PERMUTED[activation_bits], _SCALES[activation_bits]
    scales = rearrange(permuted, source, target, **_SCALE_SIZES[activation_bits])
    return scales - 6 if activation_bits == 8 else scales


def permute_bias(bias: torch.Tensor) -> torch.Tensor:
    """Order a bias as 8-bit `permute_scales` does. Shapes: bias [..., N] -> same."""
    return rearrange(bias, "(n a i b)", "(n i a b)", a=4, i=4, b=2)


def restore_bias(permuted: torch.Tensor) -> torch.Tensor:
    """Undo `permute_bias`. Shapes: permuted [..., N] -> same."""
    return rearrange(permuted, "(n i a b)", "(n a i b)", a=4, i=4, b=2)

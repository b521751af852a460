"""Layouts as formulas for single bytes: where each one goes, and which comes back.

Sources: cuBLAS's 128x4 tiles of block scales (SWIZZLE_32_4_4) and the 8x4 variant of
FlashInfer; the SM90 interleave of FP4 weights for mixed-input GEMMs (TensorRT-LLM).
"""

from __future__ import annotations

from collections.abc import Sequence


def round_up(x: int, multiple: int) -> int:
    """The next multiple."""
    return -(-x // multiple) * multiple


def offset_128x4(m: int, k: int, columns: int) -> int:
    """Byte offset of the scale of row m, block k, with `columns` blocks per row.

    Tiles of 128 rows and 4 columns hold 512 bytes, row tiles outermost. Inside a tile
    the row's residue modulo 32 is outermost, then which of the four runs of 32 rows it
    lies in, then the column.

    >>> offset_128x4(33, 5, 6)
    533
    """
    tiles_per_row = round_up(columns, 4) // 4
    tile = (m // 128) * tiles_per_row + k // 4
    return tile * 512 + (m % 32) * 16 + (m % 128) // 32 * 4 + k % 4


def position_128x4(offset: int, columns: int) -> tuple[int, int]:
    """The (row, block) whose scale lies at `offset`: inverse of `offset_128x4`."""
    tile, inside = divmod(offset, 512)
    row_tile, column_tile = divmod(tile, round_up(columns, 4) // 4)
    residue, rest = divmod(inside, 16)
    run, column = divmod(rest, 4)
    return row_tile * 128 + run * 32 + residue, column_tile * 4 + column


def offset_8x4(m: int, k: int, columns: int) -> int:
    """The same in tiles of 8 rows and 4 columns, row-major inside."""
    tile = (m // 8) * (round_up(columns, 4) // 4) + k // 4
    return tile * 32 + (m % 8) * 4 + k % 4


def pack_nibbles(codes: Sequence[int]) -> list[int]:
    """Two 4-bit codes to a byte, the even element in the low nibble."""
    if len(codes) % 2:
        raise ValueError(f"scalar: {len(codes)} codes do not fill bytes; pad to even")
    return [(codes[i] & 15) | (codes[i + 1] & 15) << 4 for i in range(0, len(codes), 2)]


def unpack_nibbles(data: Sequence[int]) -> list[int]:
    """Inverse of `pack_nibbles`: codes 0..15."""
    return [nibble for byte in data for nibble in (byte & 15, byte >> 4)]


#: Where the SM90 kernel wants the bits of the eight nibbles of a 32-bit word, least
#: significant nibble first: destination of bits 0, 1, 2 and of the sign bit 3.
SM90_BITS = (
    (6, 7, 8, 15),
    (22, 23, 24, 31),
    (3, 4, 5, 12),
    (19, 20, 21, 28),
    (0, 1, 2, 9),
    (16, 17, 18, 25),
    (13, 10, 11, 14),
    (29, 26, 27, 30),
)


def sm90_word(word: int) -> int:
    """The 32 bits of eight FP4 codes rearranged for decoding in registers."""
    return sum(
        (word >> (4 * nibble + bit) & 1) << target
        for nibble, targets in enumerate(SM90_BITS)
        for bit, target in enumerate(targets)
    )


def sm90_weights(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """FP4 bytes [n][k / 2] interleaved for the SM90 mixed-input GEMM.

    n must be a multiple of 16 and k of 64. For row r in the lower half of its 16 rows,
    32-byte part p and lane l < 16, the bytes (r, c), (r + 8, c), (r, c + 4),
    (r + 8, c + 4) with c = 32 p + 8 (l // 4) + l % 4 form a little-endian word, which
    goes through `sm90_word` to row r + 8 (l // 4 % 2), bytes 32 p + 16 (l // 8) +
    4 (l % 4) onward.
    """
    n, width = len(rows), len(rows[0]) if rows else 0
    if n % 16 or width % 32:
        raise ValueError(
            f"scalar: {n} rows of {width} bytes; the SM90 interleave takes multiples "
            "of 16 rows and 32 bytes (64 columns)"
        )
    out = [[0] * width for _ in range(n)]
    for r in (row for row in range(n) if row % 16 < 8):
        for p in range(width // 32):
            for lane in range(16):
                c = 32 * p + 8 * (lane // 4) + lane % 4
                word = (
                    rows[r][c]
                    | rows[r + 8][c] << 8
                    | rows[r][c + 4] << 16
                    | rows[r + 8][c + 4] << 24
                )
                moved = sm90_word(word)
                target = out[r + 8 * (lane // 4 % 2)]
                first = 32 * p + 16 * (lane // 8) + 4 * (lane % 4)
                for byte in range(4):
                    target[first + byte] = moved >> (8 * byte) & 255
    return out


def sm90_scale_position(r: int, k: int) -> tuple[int, int, int, int]:
    """Where the E8M0 scale of row r, block k goes in [rows/64][K/128][16][16]."""
    return r // 64, k // 4, r % 16, (r % 64) // 16 * 4 + k % 4

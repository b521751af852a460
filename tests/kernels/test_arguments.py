"""Arguments as the driver reads them: through pointers, at their parameters' widths."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import numpy as np
import torch

from refmoe.kernels.arguments import Frame, bytes_of

#: 20 bytes, so that what follows it would be misaligned without padding.
STRUCTURE = np.array([(1, 2, 3)], [("a", "u8"), ("b", "u8"), ("c", "u4")])


def read(frame: Frame, sizes: list[int]) -> list[bytes]:
    """What the driver copies: as many bytes as a parameter has, from each pointer."""
    pointers = (ctypes.c_void_p * len(sizes)).from_address(frame.pointers)
    return [ctypes.string_at(p, n) for p, n in zip(pointers, sizes, strict=True)]


def test_frame_holds_every_kind_at_its_width() -> None:
    """Catches a pointer cut to 32 bits, a float passed as double, a value misplaced."""
    tensor = torch.zeros(4)
    given: list[tuple[Any, bytes]] = [
        (tensor, struct.pack("<Q", tensor.data_ptr())),
        (None, bytes(8)),
        (STRUCTURE, STRUCTURE.tobytes()),
        (-5, struct.pack("<q", -5)),
        (0.5, struct.pack("<f", 0.5)),
        (np.int32(-7), struct.pack("<i", -7)),
        (True, struct.pack("<q", 1)),
        (b"abc", b"abc"),
        (np.uint64(2**63), struct.pack("<Q", 2**63)),
    ]
    wanted = [content for _, content in given]
    assert [bytes_of(argument) for argument, _ in given] == wanted
    frame = Frame.of([argument for argument, _ in given])
    assert read(frame, [len(content) for content in wanted]) == wanted


def test_frame_is_used_again_only_after_it_came_back() -> None:
    """Catches two launches that share memory, and memory that grows with launches."""
    first, second = Frame.of([1, 2.0]), Frame.of([3, 4.0])
    assert read(first, [8, 4]) == [struct.pack("<q", 1), struct.pack("<f", 2.0)]
    assert first.pointers != second.pointers
    first.give_back()
    third = Frame.of([5, 6.0])
    assert third is first
    assert read(third, [8, 4]) == [struct.pack("<q", 5), struct.pack("<f", 6.0)]
    assert read(second, [8, 4]) == [struct.pack("<q", 3), struct.pack("<f", 4.0)]


def test_frame_without_arguments() -> None:
    assert Frame.of([]).pointers

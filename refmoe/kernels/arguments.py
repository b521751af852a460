"""A kernel's arguments as the driver takes them: values, and pointers to them."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

#: Tensors and None pass as pointers, int as 64-bit and float as 32-bit scalars, numpy
#: scalars, one-element structured arrays and bytes as they are.
Argument = torch.Tensor | np.generic | np.ndarray[Any, Any] | bytes | int | float | None


def value_of(argument: Argument) -> tuple[str, int | float | bytes]:
    """An argument's code for `struct`, and its value.

    >>> value_of(5), value_of(0.5), value_of(np.int32(7))
    (('q', 5), ('f', 0.5), ('4s', b'\\x07\\x00\\x00\\x00'))
    """
    if argument is None:
        return "Q", 0
    if isinstance(argument, torch.Tensor):
        return "Q", argument.data_ptr()
    if type(argument) is int:
        return "q", argument
    if isinstance(argument, np.generic | np.ndarray):
        argument = argument.tobytes()
    if isinstance(argument, bytes):
        return f"{len(argument)}s", argument
    return ("q", int(argument)) if isinstance(argument, int) else ("f", argument)


def bytes_of(argument: Argument) -> bytes:
    """The bytes that a kernel's parameter gets.

    >>> bytes_of(1.0), bytes_of(None)
    (b'\\x00\\x00\\x80?', b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00')
    """
    code, value = value_of(argument)
    return struct.pack(f"<{code}", value)


class Frame:
    """Memory for the arguments of one launch: values, and where each of them stands.

    `pointers` is the address of an array with the address of every value.
    """

    __slots__ = ("_codes", "_layout", "_pointers", "_values", "pointers")

    def __init__(self, codes: tuple[str, ...]) -> None:
        starts: list[int] = []
        units: list[str] = []
        for code in codes:
            starts.append(struct.calcsize(f"<{''.join(units)}"))
            units.append(f"{code}{-struct.calcsize(f'<{code}') % 8}x")
        self._codes, self._layout = codes, struct.Struct(f"<{''.join(units)}")
        self._values = ctypes.create_string_buffer(self._layout.size)
        base = ctypes.addressof(self._values)
        places = [base + start for start in starts]
        self._pointers = (ctypes.c_void_p * len(codes))(*places)
        self.pointers = ctypes.addressof(self._pointers)

    @classmethod
    def of(cls, arguments: Sequence[Argument]) -> Frame:
        """A frame with these arguments, one that a launch has given back if there is.

        The driver copies arguments before a launch returns: `give_back` comes then.
        """
        pairs = [value_of(argument) for argument in arguments]
        codes = tuple([code for code, _ in pairs])
        free = _free.get(codes)
        # Taking and giving back are single steps: threads never share a frame.
        try:
            frame = free.pop() if free else cls(codes)
        except IndexError:
            frame = cls(codes)
        frame._layout.pack_into(frame._values, 0, *[value for _, value in pairs])
        return frame

    def give_back(self) -> None:
        """Let another launch have this memory."""
        _free.setdefault(self._codes, []).append(self)


_free: dict[tuple[str, ...], list[Frame]] = {}

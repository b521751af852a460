"""Frames of JSON between two processes, one message each, and tensors in a file."""

from __future__ import annotations

import json
import math
import os
import socket
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from refmoe.guard.places import span

#: Bytes of a frame, at most; sockets take a little more as one message.
LONGEST = 150_000
#: Element types by name.
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
        torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu,
    )
}  # fmt: skip
_LINE = 64

Frame = dict[str, Any]
Header = dict[str, Any]


class Garbled(Exception):
    """What came is no frame, or not one that was due; the message says what came."""


def send(channel: socket.socket, frame: Frame) -> None:
    """One frame as one message.

    Raises OSError where the other end is gone, ValueError for a frame too long.
    """
    message = json.dumps(frame).encode()
    if len(message) > LONGEST:
        raise ValueError(f"a frame of {len(message)} bytes; the limit is {LONGEST}")
    channel.sendall(message)


def receive(channel: socket.socket) -> Frame | None:
    """The next frame; None at the end. Raises Garbled for anything else."""
    message = channel.recv(LONGEST + 1)
    if not message:
        return None
    try:
        frame = json.loads(message)
    except ValueError:
        frame = None
    if not isinstance(frame, dict):
        raise Garbled(f"{len(message)} bytes that are no frame: {message[:40]!r}")
    return frame


def write(file: int, tensors: Mapping[str, torch.Tensor], at: int = 0) -> list[Header]:
    """Write tensors into an open file from `at` on; what there is to know of each.

    Strides, the place within a line and what lies between rows are kept.
    """
    headers = []
    for name, tensor in tensors.items():
        header: Header = {
            "name": name,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
            "at": at,
        }
        if not tensor.is_meta:
            header["lead"] = int(tensor.storage_offset()) % _LINE
            at = _put(file, span(tensor), at)
        headers.append(header)
    return headers


def _put(file: int, raw: torch.Tensor, at: int) -> int:
    left = raw.numpy().data
    while left:
        count = os.pwrite(file, left, at)
        left, at = left[count:], at + count
    return at


def read(file: int, headers: Sequence[Header]) -> dict[str, torch.Tensor]:
    """The tensors that `headers` describe, copied out of the file.

    The file is read and never mapped: whoever else holds it may cut it short.

    Raises Garbled for a header that does not fit the file.
    """
    size = os.fstat(file).st_size
    try:
        return {str(header["name"]): _get(file, header, size) for header in headers}
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise Garbled(f"a tensor that does not fit its file: {error!r}") from None


def _get(file: int, header: Header, size: int) -> torch.Tensor:
    dtype = DTYPES[header["dtype"]]
    shape, stride, at = header["shape"], header["stride"], header["at"]
    numbers = [*shape, *stride, at, header.get("lead", 0)]
    if any(type(n) is not int or n < 0 for n in numbers) or len(shape) != len(stride):
        raise ValueError(f"{numbers}")
    if "lead" not in header:
        return torch.empty(shape, dtype=dtype, device="meta")
    if not math.prod(shape):
        return torch.empty(shape, dtype=dtype)
    reach = sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    count = (reach + 1) * dtype.itemsize
    if at + count > size or header["lead"] >= _LINE:
        raise ValueError(f"{header['name']} ends at {at + count} of {size} bytes")
    lead = header["lead"] * dtype.itemsize
    # Elements are aligned in a buffer of their own type.
    buffer = torch.zeros((lead + count) // dtype.itemsize, dtype=dtype)
    target = buffer.view(torch.uint8).numpy().data[lead:]
    while target:
        got = os.preadv(file, [target], at)
        if not got:
            raise ValueError("the file was cut short")
        target, at = target[got:], at + got
    return buffer.as_strided(shape, stride, header["lead"])


def digest(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """A checksum of each tensor's bytes."""
    return {
        name: zlib.crc32(span(tensor).numpy().data)
        for name, tensor in tensors.items()
        if not tensor.is_meta
    }

"""The tensors of one call in one stretch of memory, and its stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from refmoe.guard.hold import hold
from refmoe.guard.places import POISONS, Place, poison, span
from refmoe.problem import tensors
from refmoe.results import Expected
from refmoe.views import mapped

#: Alignment of every address, and the number of such steps that addresses shift by.
LINE, SHIFTS = 256, 8
#: Bytes of canary at either end; one line at least stands between two tensors.
MARGIN = 4096
#: Canary bytes, which are NaN to whoever reads them as floats.
_CANARY = b"\xa5\xff"
_CANARY_WORD = int.from_bytes(_CANARY, "little", signed=True)
#: Memory of the launch before that is kept, at most.
_KEPT = 1 << 26
#: Cycles for which the writing of the inputs is held back on a GPU: 10 ms, longer than
#: the host needs to launch all kernels of a call.
_DELAY = 20_000_000


@dataclass(slots=True)
class Launch:
    """The tensors of one call in one stretch of memory.

    `given` are the arguments by name, `wanted` the shapes and types of buffers to be
    filled. Tensors keep their strides and their place within a line.
    """

    given: Mapping[str, Any]
    wanted: Mapping[str, Expected]
    device: str
    seed: int = 0
    #: A launch whose addresses this one takes over, if its tensors fit.
    again: Launch | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    places: list[Place] = field(default_factory=list)
    shift: int = 0
    memory: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.shift = self.again.shift if self.again else LINE * (self.seed % SHIFTS)
        cursor = MARGIN + self.shift
        for argument, value in self.given.items():
            for name, tensor in tensors(value, argument).items():
                if not tensor.is_meta:
                    cursor = self._place(cursor, name, argument, tensor)
        for name, want in self.wanted.items():
            like = torch.empty(want.shape, dtype=want.dtypes[0], device="meta")
            cursor = self._place(cursor, name, "", like)
        image = self._image((cursor + MARGIN) // 2 * 2)
        if self.again is not None and self.outline == self.again.outline:
            self.memory = self.again.memory.copy_(image)
        else:
            self.memory = image.to(self.device)
        # What went before has had its use.
        self.again = None
        views = {place.name: place.view(self.memory) for place in self.places}
        for argument, value in self.given.items():
            # Both go through a value's tensors in the same order.
            names = iter(tensors(value, argument))
            self.arguments[argument] = mapped(
                value, partial(_next, views=views, names=names)
            )
        self.buffers = {name: views[name] for name in self.wanted}

    @property
    def outline(self) -> list[tuple[object, ...]]:
        """Which tensors lie where, of which type."""
        return [
            (place.name, place.start, like.dtype, like.shape, like.stride())
            for place in self.places
            for like in [place.like]
        ]

    @property
    def poison(self) -> str:
        """Which of POISONS the buffers of this launch hold."""
        return POISONS[self.seed % len(POISONS)]

    def _place(
        self, cursor: int, name: str, argument: str, tensor: torch.Tensor
    ) -> int:
        size = tensor.dtype.itemsize
        original = None if tensor.is_meta else span(tensor)
        offset = int(tensor.storage_offset()) * size
        start = -(-cursor // LINE) * LINE + offset % LINE
        count = tensor.numel() * size if original is None else original.numel()
        self.places.append(
            Place(name, argument, tensor, start, start + count, original)
        )
        return start + count + LINE

    def _image(self, size: int) -> torch.Tensor:
        """What the memory holds before the call; on the host, to be copied at once."""
        image = torch.empty(size, dtype=torch.uint8)
        image.view(torch.int16).fill_(_CANARY_WORD)
        for place in self.places:
            part = image[place.start : place.stop]
            if place.original is not None:
                part.copy_(place.original)
            else:
                element = poison(self.poison, place.like.dtype)
                part.view(-1, len(element)).copy_(element)
        return image

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The stream that the call runs on.

        On a GPU every other seed gets a stream of its own, on which the arguments hold
        NaN until a delay is over: a kernel on another stream reads those.
        """
        if not self.device.startswith("cuda") or self.seed % 2 == 0:
            yield
            return
        written = self.memory.clone()
        torch.cuda.synchronize(self.device)
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            self.memory.fill_(0xFF)
            hold(stream, _DELAY)
            self.memory.copy_(written, non_blocking=True)
            yield
        stream.synchronize()

    def violations(self, mutates: tuple[str, ...] = ()) -> list[str]:
        """What the call did to memory that is not its own, a sentence each.

        Arguments in `mutates` may change.
        """
        image = self.memory.cpu()
        sentences = (
            place.changed(image)
            for place in self.places
            if place.argument not in mutates
        )
        return [text for text in sentences if text] + self._canaries(image)

    def _canaries(self, image: torch.Tensor) -> list[str]:
        raw = image.numpy()
        edges = [0, *(e for p in self.places for e in (p.start, p.stop)), len(raw)]
        found = []
        for number in range(0, len(edges), 2):
            start, stop = edges[number], edges[number + 1]
            want = (_CANARY * (1 + (stop - start) // 2 + 1))[start % 2 :]
            got = raw[start:stop].tobytes()
            if got == want[: stop - start]:
                continue
            bad = [i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b]
            # Bytes count with the tensor that is nearer.
            middle = (stop - start) // 2
            if number == 0:
                middle = 0
            elif number + 2 == len(edges):
                middle = stop - start
            behind = [i + 1 for i in bad if i < middle]
            before = [stop - start - i for i in reversed(bad) if i >= middle]
            if behind:
                found.append(_outside(self.places[number // 2 - 1], behind, "behind"))
            if before:
                found.append(_outside(self.places[number // 2], before, "before"))
        return found

    def unwritten(self, name: str, got: torch.Tensor) -> str | None:
        """The sentence about poison that is left in a result; None if there is none.

        Only the payload is nothing else: 10000 and all ones may be results.
        """
        size = got.dtype.itemsize
        if self.poison != "payload" or size == 1 or name not in self.buffers:
            return None
        bytes_ = got.contiguous().view(-1).view(torch.uint8).view(*got.shape, size)
        left = (bytes_ == poison("payload", got.dtype)).all(-1)
        if not bool(left.any()):
            return None
        index = [int(part) for part in left.nonzero()[0]]
        return (
            f"{int(left.sum())} elements of {name} were never written, first "
            f"{index}: the buffer's poison is still there"
        )


@dataclass(slots=True)
class Guards:
    """What a process keeps from launch to launch."""

    before: torch.Tensor | None = None

    def leave(self, launch: Launch) -> None:
        """Poison what a launch was handed, and keep it from being handed out at once.

        Whoever kept a pointer to it reads NaN; the next launch has fresh addresses.
        """
        launch.memory.fill_(0xFF)
        self.before = launch.memory if len(launch.memory) <= _KEPT else None


def _outside(place: Place, distances: list[int], side: str) -> str:
    edge = "behind its end" if side == "behind" else "before its start"
    return (
        f"the call wrote outside {place.name}: {len(distances)} bytes, the nearest "
        f"{distances[0]} bytes {edge}"
    )


def _next(
    tensor: torch.Tensor, *, views: Mapping[str, torch.Tensor], names: Iterator[str]
) -> torch.Tensor:
    return views.get(next(names), tensor)

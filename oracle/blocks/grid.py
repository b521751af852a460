"""How a tensor is cut into blocks, and put together again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from oracle.spec import BlockFormat

#: Elements worked on at a time: small enough to stay in a core's cache.
CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Grid:
    """A tensor's shape and the size of its blocks.

    Tiles are f[G, r, C, c]: G runs over leading axes and rows of blocks, C over the
    blocks along the reduction axis; r x c is one block. What belongs to a block is
    [G, C].
    """

    #: Shape with the reduction axis last and at least two axes.
    shape: torch.Size
    rows: int
    columns: int
    axis: int
    #: Whether the tensor has one axis only.
    vector: bool

    @classmethod
    def of(cls, shape: torch.Size, format: BlockFormat, axis: int) -> Grid:
        """The grid of a tensor of `shape`; ValueError where it does not divide."""
        if not shape or not -len(shape) <= axis < len(shape):
            raise ValueError(
                f"blocks: axis={axis} of shape {tuple(shape)} does not exist; "
                f"give one of the {len(shape)} axes"
            )
        vector = len(shape) == 1
        moved = [*shape]
        moved.append(moved.pop(axis))
        if vector:
            moved.insert(0, 1)
        sizes = []
        for name, length, block in zip(
            ("rows", "columns"), moved[-2:], format.block, strict=True
        ):
            size = block or length or 1
            if length % size and not format.ragged:
                raise ValueError(
                    f"blocks: {length} {name} do not divide into blocks of {size} "
                    f"({format.name}); pad them, or take a format with ragged=True"
                )
            sizes.append(size)
        return cls(torch.Size(moved), sizes[0], sizes[1], axis, vector)

    @property
    def counts(self) -> tuple[int, int]:
        """Blocks along the rows and along the reduction axis."""
        rows, columns = self.shape[-2:]
        return -(-rows // self.rows), -(-columns // self.columns)

    @property
    def lead(self) -> torch.Size:
        """The axes before the last two."""
        return self.shape[:-2]

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        """Tiles of `x`, short blocks filled up with zeros; a view where possible."""
        x = x.unsqueeze(0) if self.vector else x.movedim(self.axis, -1)
        down, across = self.counts
        missing = (
            across * self.columns - self.shape[-1],
            down * self.rows - self.shape[-2],
        )
        if any(missing):
            x = pad(x, (0, missing[0], 0, missing[1]))
        groups = self.lead.numel() * down
        return x.reshape(groups, self.rows, across, self.columns)

    def blocks(self, tiles: torch.Tensor) -> torch.Tensor:
        """Tiles as [B, n]: one block a row."""
        return tiles.permute(0, 2, 1, 3).reshape(-1, self.rows * self.columns)

    def tiles(self, blocks: torch.Tensor) -> torch.Tensor:
        """[B, n] as tiles again."""
        shape = (-1, self.counts[1], self.rows, self.columns)
        return blocks.reshape(shape).permute(0, 2, 1, 3)

    def join(self, tiles: torch.Tensor) -> torch.Tensor:
        """The tensor that `tiles` were cut from."""
        down, across = self.counts
        x = tiles.reshape(*self.lead, down * self.rows, across * self.columns)
        x = x[..., : self.shape[-2], : self.shape[-1]]
        return x.squeeze(0) if self.vector else x.movedim(-1, self.axis)

    @property
    def scale_shape(self) -> torch.Size:
        """Shape of the stored scales: the tensor's axes, counted in blocks."""
        if self.vector:
            return torch.Size(self.counts[1:])
        counts = [*self.lead, *self.counts]
        axis = self.axis % len(counts)
        counts.insert(axis, counts.pop())
        return torch.Size(counts)

    def spread(self, blocks: torch.Tensor) -> torch.Tensor:
        """[G, C] as the scales are stored."""
        if self.vector:
            return blocks.reshape(self.counts[1])
        return blocks.reshape(*self.lead, *self.counts).movedim(-1, self.axis)

    def gather(self, scales: torch.Tensor) -> torch.Tensor:
        """Stored scales as [G, C]; raises ValueError unless they have their shape."""
        if scales.shape != self.scale_shape:
            raise ValueError(
                f"blocks: scales have shape {tuple(scales.shape)}; these codes need "
                f"{tuple(self.scale_shape)}"
            )
        scales = scales if self.vector else scales.movedim(self.axis, -1)
        return scales.reshape(-1, self.counts[1])

    def chunks(self, groups: int) -> Iterator[slice]:
        """Slices of the first axis of the tiles, of about CHUNK elements each."""
        size = self.rows * self.columns * max(self.counts[1], 1)
        step = max(1, CHUNK // size)
        for start in range(0, groups, step):
            yield slice(start, min(start + step, groups))


def peaks(tiles: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The largest magnitude of each block, exactly; NaN where the block has a NaN.

    Shapes: tiles [G, r, C, c] -> f64[G, C]

    Magnitudes of sixteen-bit floats order like their bits, NaN above infinity.
    """
    groups, _, across, _ = tiles.shape
    out = torch.empty(groups, across, dtype=torch.float64, device=tiles.device)
    short = tiles.dtype.itemsize == 2
    for part in grid.chunks(groups):
        piece = tiles[part]
        if short:
            bits = (piece.view(torch.int16) & 0x7FFF).amax((1, 3))
            out[part] = bits.view(tiles.dtype).to(torch.float64)
        else:
            out[part] = piece.abs().amax((1, 3)).to(torch.float64)
    return out

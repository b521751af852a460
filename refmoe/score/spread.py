"""Work in several processes, its results in order and as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """`work` of each item; with one worker, in this process."""
    if workers == 1:
        yield from map(work, items)
        return
    # Spawned: what torch has started here, a fork would inherit broken.
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), torch.set_num_threads, (1,)
    )
    with pool:
        yield from pool.map(work, items)

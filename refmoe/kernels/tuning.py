"""Which of several equal ways to launch a kernel is fastest: measured, kept, pinned.

Every tactic gives the same bits; they differ in time. A choice is looked up by
operation, compile target and sizes: in the file that $REFMOE_TACTICS names (pinned),
else in the cache folder, where `tune` writes it; without one a default is taken.
Nothing is measured unless `tune` is called.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from refmoe.kernels import cache

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Tactic = TypeVar("Tactic", bound=DataclassInstance)
else:
    Tactic = TypeVar("Tactic")

_WARM, _ROUNDS, _CALLS = 3, 15, 10


def key(op: str, target: str, **sizes: int | str) -> str:
    """The name under which a choice is kept.

    >>> key("omni_route", "sm_90a", n=256, k=16)
    'omni_route target=sm_90a n=256 k=16'
    """
    words = (f"{name}={size}" for name, size in sizes.items())
    return " ".join((op, f"target={target}", *words))


def bucket(count: int) -> int:
    """The power of two at or above `count`: sizes in one bucket share a choice.

    >>> bucket(1), bucket(1000)
    (1, 1024)
    """
    return 1 << max(count - 1, 0).bit_length()


def path() -> Path:
    """The file that choices are read from."""
    if pinned := os.environ.get("REFMOE_TACTICS"):
        return Path(pinned)
    return cache.folder() / "tactics.json"


def chosen(name: str, candidates: Sequence[Tactic]) -> Tactic | None:
    """The kept choice of one of `candidates`; None without one.

    Raises ValueError if a pinned file does not parse.
    """
    kept = _read(path()).get(name)
    for candidate in candidates:
        if kept == asdict(candidate):
            return candidate
    return None


def tune(
    name: str,
    candidates: Sequence[Tactic],
    run: Callable[[Tactic], object],
    device: torch.device,
) -> Tactic:
    """The fastest of `candidates` by CUDA events, kept for `chosen`.

    Rounds go over all candidates in turn, so that a clock that slows down slows all;
    medians are compared. Synchronises.

    Raises ValueError while $REFMOE_TACTICS pins the choices.
    """
    if os.environ.get("REFMOE_TACTICS"):
        raise ValueError(
            f"tune: $REFMOE_TACTICS pins the choices of {path()}; unset it to measure"
        )
    times: list[list[float]] = [[] for _ in candidates]
    for round_ in range(_WARM + _ROUNDS):
        for candidate, own in zip(candidates, times, strict=True):
            elapsed = _time(run, candidate, device)
            if round_ >= _WARM:
                own.append(elapsed)
    medians = [sorted(own)[_ROUNDS // 2] for own in times]
    best = candidates[medians.index(min(medians))]
    _write(path(), name, asdict(best))
    return best


def _time(
    run: Callable[[Tactic], object], candidate: Tactic, device: torch.device
) -> float:
    """Milliseconds of a few calls on the current stream."""
    new: Any = torch.cuda.Event
    start, stop = new(enable_timing=True), new(enable_timing=True)
    stream = torch.cuda.current_stream(device)
    start.record(stream)
    for _ in range(_CALLS):
        run(candidate)
    stop.record(stream)
    stop.synchronize()
    return float(start.elapsed_time(stop))


def _read(file: Path) -> dict[str, Any]:
    try:
        stamp = file.stat().st_mtime_ns
    except OSError:
        return {}
    return _parse(file, stamp)


@lru_cache(maxsize=8)
def _parse(file: Path, stamp: int) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"tuning: {file} does not parse: {error}; delete it") from None
    return found


def _write(file: Path, name: str, choice: dict[str, Any]) -> None:
    """Add one choice; of two processes that write at once, one choice may be lost."""
    content = json.dumps({**_read(file), name: choice}, indent=1, sort_keys=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    with os.fdopen(handle, "w") as stream:
        stream.write(content)
    os.replace(temporary, file)

"""The product-key router and its one-neuron experts."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index as index_of

import numpy as np
import torch

from refmoe.kernels import tuning
from refmoe.kernels.launch import Kernel, aligned, blocks_for, check, current
from refmoe.kernels.launchers.formats import TYPES
from refmoe.kernels.launchers.permute import IDS

_FILE = "omni.cu"
#: What the staircase kernel takes; past it the naive one runs.
LARGEST_SIDE, LARGEST_K = 256, 128
#: Bytes of struct Board of omni.cu.
_BOARD = 5120
#: The types of logits that each type of sums holds.
_SUMS = {
    "fp32": (torch.float32, torch.bfloat16, torch.float16),
    "bf16": (torch.bfloat16,),
    "fp16": (torch.float16,),
}


@dataclass(frozen=True, slots=True)
class Tactic:
    """How the staircase spreads: warps that share a token, tokens of a thread block."""

    warps: int = 1
    tokens: int = 4


#: A warp per token where there are many; experts split over warps where there are few.
TACTICS = (Tactic(1, 1), Tactic(1, 2), Tactic(1, 4), Tactic(4, 1), Tactic(8, 1))
#: Targets whose multiprocessors have 100 KB of shared memory: 8 boards leave no room
#: for a second thread block beside another two.
_NARROW = ("sm_86", "sm_89", "sm_120a", "compute_86", "compute_89")


def tactics(target: str) -> tuple[Tactic, ...]:
    """The tactics worth measuring on a compile target."""
    return TACTICS[:-1] if target in _NARROW else TACTICS


def omni_route(
    logits_x: torch.Tensor,
    logits_y: torch.Tensor,
    top_k: int,
    *,
    sum_type: str = "fp32",
    tactic: Tactic | None = None,
    naive: bool = False,
    index: torch.dtype = torch.int32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The top_k largest sums x[i] + y[j] and their ids i n + j, largest first.

    Shapes: logits: bf16, fp16 or fp32 [T, n] -> scores of that type [T, k], ids of type
    `index` [T, k]

    Sums are rounded once to `sum_type`; equal sums go to the lowest id, -0 equals +0,
    NaN comes after -inf. Every tactic gives the same bits. Sides over 256 and top_k
    over 128 take the naive kernel, by brute force.

    Raises TypeError and ValueError for logits, top_k and sum_type that do not fit.
    """
    check("omni_route", "logits_x", logits_x, tuple(TYPES), (None, None))
    dtype, shape, device = logits_x.dtype, logits_x.shape, logits_x.device
    check("omni_route", "logits_y", logits_y, (dtype,), shape, device)
    if sum_type not in _SUMS or dtype not in _SUMS[sum_type]:
        raise ValueError(
            f"omni_route: sum_type={sum_type!r} does not hold logits of type "
            f"{TYPES[dtype]}; use 'fp32' or the logits' own 16-bit type"
        )
    tokens, n = shape
    try:
        top_k = index_of(top_k)
    except TypeError:
        raise TypeError(
            f"omni_route: top_k={top_k!r} is a {type(top_k).__name__}; give a whole "
            f"number in 1..{n * n}"
        ) from None
    if not 1 <= top_k <= n * n:
        raise ValueError(
            f"omni_route: top_k={top_k} lies outside 1..{n * n}, the number of experts"
        )
    if n * n >= 2**31:
        raise ValueError(
            f"omni_route: n={n} gives more than 2^31 experts; give n < 46341"
        )
    scores = torch.empty((tokens, top_k), dtype=dtype, device=device)
    ids = torch.empty((tokens, top_k), dtype=index, device=device)
    names = f"{TYPES[dtype]}, {sum_type}, {IDS[index]}"
    arguments = (logits_x, logits_y, tokens, np.int32(n), np.int32(top_k), scores, ids)
    if naive or n > LARGEST_SIDE or top_k > LARGEST_K:
        Kernel(_FILE, f"omni_route_naive<{names}>")(
            blocks_for(tokens, 4), 128, *arguments, device=device, shared=32 * top_k
        )
        return scores, ids
    own = tactic or _tactic(logits_x, top_k)
    boards = own.warps * own.tokens
    rows = blocks_for(top_k, 32)
    names = f"{names}, {rows}, {own.warps}, {own.tokens}"
    Kernel("omni_staircase.cu", f"omni_route_staircase<{names}>")(
        blocks_for(tokens, own.tokens), 32 * boards, *arguments, device=device,
        shared=_BOARD * boards,
    )  # fmt: skip
    return scores, ids


def tactic_key(logits: torch.Tensor, top_k: int, target: str) -> str:
    """The name under which the choice for logits of this shape is kept."""
    return tuning.key(
        "omni_route", target, T=tuning.bucket(len(logits)), n=logits.shape[1],
        k=top_k, dtype=TYPES[logits.dtype],
    )  # fmt: skip


def _tactic(logits: torch.Tensor, top_k: int) -> Tactic:
    """The kept choice, else experts split over warps for few tokens of many experts."""
    target = current().target(logits.device)
    kept = tuning.chosen(tactic_key(logits, top_k, target), tactics(target))
    if kept is not None:
        return kept
    few = len(logits) <= 128 and logits.shape[1] >= 64
    return Tactic(4, 1) if few else Tactic()


def tune_omni_route(
    logits_x: torch.Tensor, logits_y: torch.Tensor, top_k: int
) -> Tactic:
    """Measure every tactic on these logits and keep the fastest for their shape."""
    target = current().target(logits_x.device)
    return tuning.tune(
        tactic_key(logits_x, top_k, target),
        tactics(target),
        lambda tactic: omni_route(logits_x, logits_y, top_k, tactic=tactic),
        logits_x.device,
    )


def omni_route_backward(
    d_scores: torch.Tensor, ids: torch.Tensor, n: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """d_x[i], d_y[j]: sums of d_scores over the slots with id // n = i, id % n = j.

    Shapes: d_scores: bf16, fp16 or fp32 [T, k]; ids: i32 or i64 [T, k] -> [T, n] twice,
    of d_scores' type

    Summed in fp32 in the order of the slots: the same bits on every call. Ids out of
    range carry no gradient.

    Raises TypeError and ValueError for tensors that do not fit.
    """
    op = "omni_route_backward"
    check(op, "d_scores", d_scores, tuple(TYPES), (None, None))
    check(op, "ids", ids, tuple(IDS), d_scores.shape, d_scores.device)
    if not 1 <= n <= 1024:
        raise ValueError(f"{op}: n={n} lies outside 1..1024")
    tokens, top_k = d_scores.shape
    d_x, d_y = (d_scores.new_empty((tokens, n)) for _ in range(2))
    names = f"{TYPES[d_scores.dtype]}, {IDS[ids.dtype]}"
    Kernel(_FILE, f"omni_route_backward<{names}>")(
        blocks_for(tokens, 4), 128, d_scores, ids, tokens, np.int32(n), np.int32(top_k),
        d_x, d_y, device=d_scores.device, shared=32 * n,
    )  # fmt: skip
    return d_x, d_y


def omni_experts(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, up: torch.Tensor,
    down: torch.Tensor, *, naive: bool = False,
) -> torch.Tensor:  # fmt: skip
    """y = sum over the slots of a V[id], a = silu(s) w, s = <x, U[id]>, U up, V down.

    Shapes: x: bf16, fp16 or fp32 [T, H]; ids: i32 or i64 [T, k]; weights: f[T, k]; up,
    down: x's type [E, H] -> [T, H] of x's type

    s is summed in fp32, a rounded to x's type, the products and the sum over slots, in
    their order, to fp32. Ids out of range (-1) add nothing.

    Raises TypeError and ValueError for tensors that do not fit.
    """
    op = "omni_experts"
    check(op, "x", x, tuple(TYPES), (None, None))
    tokens, width = x.shape
    check(op, "ids", ids, tuple(IDS), (tokens, None), x.device)
    check(op, "weights", weights, tuple(TYPES), ids.shape, x.device)
    check(op, "up", up, (x.dtype,), (None, width), x.device)
    check(op, "down", down, (x.dtype,), up.shape, x.device)
    vector = 16 // x.element_size()
    if naive or width % vector or not aligned(16, x, up, down):
        vector = 1
    y = torch.empty_like(x)
    names = (TYPES[x.dtype], TYPES[weights.dtype], IDS[ids.dtype], str(vector))
    Kernel("omni_experts.cu", f"omni_experts<{', '.join(names)}>")(
        tokens, 256, x, ids, weights, up, down, len(up), np.int32(ids.shape[1]), width,
        y, device=x.device, shared=4 * ids.shape[1],
    )  # fmt: skip
    return y

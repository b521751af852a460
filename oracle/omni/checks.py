"""What the product-key router and its experts refuse."""

from __future__ import annotations

import torch

#: Plain types by torch's name.
_TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}
#: The plain types whose values each sum type holds.
_HOLDS = {
    "fp64": ("fp64", "fp32", "bf16", "fp16"),
    "fp32": ("fp32", "bf16", "fp16"),
    "bf16": ("bf16",),
    "fp16": ("fp16",),
}


def plain_type(owner: str, tensor: torch.Tensor) -> str:
    """The name of a tensor's type; TypeError if it is none of the plain four."""
    try:
        return _TYPES[tensor.dtype]
    except KeyError:
        raise TypeError(
            f"{owner}: a tensor is {tensor.dtype}; give float64, float32, bfloat16 or "
            "float16"
        ) from None


def check_logits(
    logits_x: torch.Tensor, logits_y: torch.Tensor, top_k: int, sum_type: str
) -> None:
    """Raise TypeError or ValueError for the first thing that does not fit."""
    plain = plain_type("omni_route", logits_x)
    if plain_type("omni_route", logits_y) != plain:
        raise TypeError(
            f"omni_route: logits are {logits_x.dtype} and {logits_y.dtype}; give both "
            "in one type"
        )
    if logits_x.ndim != 2 or logits_x.shape != logits_y.shape or not logits_x.shape[1]:
        raise ValueError(
            f"omni_route: logits have shapes {tuple(logits_x.shape)} and "
            f"{tuple(logits_y.shape)}; give [T, n] twice, n >= 1"
        )
    if sum_type not in _HOLDS:
        options = ", ".join(repr(name) for name in _HOLDS)
        raise ValueError(
            f"omni_route: sum_type={sum_type!r} is unknown; use one of {options}"
        )
    if plain not in _HOLDS[sum_type]:
        raise ValueError(
            f"omni_route: sum_type={sum_type!r} cannot hold logits of type {plain!r}; "
            "give logits of that type or a wider sum_type"
        )
    n = logits_x.shape[1]
    if not 1 <= top_k <= n * n:
        raise ValueError(
            f"omni_route: top_k={top_k} lies outside 1..{n * n}, the number of experts"
        )


def check_ids(
    owner: str, ids: torch.Tensor, experts: int, *, empty: bool = False
) -> None:
    """Raise unless ids are integers [T, k] below `experts`; -1 only where `empty`."""
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{owner}: ids are {ids.dtype}; give an integer type")
    if ids.ndim != 2:
        raise ValueError(f"{owner}: ids have shape {tuple(ids.shape)}; give [T, k]")
    least = -1 if empty else 0
    bad = (ids < least) | (ids >= experts)
    if bool(bad.any()):
        raise ValueError(
            f"{owner}: id {int(ids[bad][0])} lies outside {least}..{experts - 1}"
        )


def check_experts(
    owner: str,
    x: torch.Tensor,
    ids: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    *,
    weights: torch.Tensor,
    d_out: torch.Tensor | None = None,
) -> None:
    """Raise TypeError or ValueError for the first tensor that does not fit."""
    if up.ndim != 2:
        raise ValueError(f"{owner}: up has shape {tuple(up.shape)}; give [E, H]")
    check_ids(owner, ids, len(up), empty=True)
    tokens, width = len(ids), up.shape[1]
    given = {
        "x": (x, (tokens, width)),
        "weights": (weights, tuple(ids.shape)),
        "up": (up, tuple(up.shape)),
        "down": (down, tuple(up.shape)),
    }
    if d_out is not None:
        given["d_out"] = (d_out, (tokens, width))
    for name, (tensor, shape) in given.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{owner}: {name} has shape {tuple(tensor.shape)}; give {shape}"
            )
        plain_type(owner, tensor)

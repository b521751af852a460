"""Small ports on a GPU: right ones, and ones that do one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

#: Tokens of the case at which a faulty port fails.
FATAL = 17


def top_sums(
    x: torch.Tensor, y: torch.Tensor, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The product-key router by brute force, the lowest index first among equals."""
    sums = (x.float()[:, :, None] + y.float()[:, None, :]).flatten(1)
    scores, ids = sums.sort(dim=1, descending=True, stable=True)
    return scores[:, :top_k].to(x.dtype), ids[:, :top_k]


def _port(route: Callable[..., Any], **attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(omni_route=route, device="cuda", **attributes)


def _route(logits_x: torch.Tensor, logits_y: torch.Tensor, top_k: int) -> Any:
    return top_sums(logits_x, logits_y, top_k)


def _elsewhere(logits_x: torch.Tensor, logits_y: torch.Tensor, top_k: int) -> Any:
    """Runs on the default stream, whatever the current one is."""
    with torch.cuda.stream(torch.cuda.default_stream()):
        return top_sums(logits_x, logits_y, top_k)


class _Remembering:
    """Adds a logit as the host read it, which a capture cannot, less the same logit."""

    device, graph_safe = "cuda", True

    def __init__(self) -> None:
        self.first = 0.0

    def omni_route(
        self, logits_x: torch.Tensor, logits_y: torch.Tensor, top_k: int
    ) -> Any:
        if not torch.cuda.is_current_stream_capturing():
            self.first = float(logits_x[0, 0])
        return top_sums(logits_x + (self.first - logits_x[0, 0]), logits_y, top_k)


def _overrunning(logits_x: torch.Tensor, logits_y: torch.Tensor, top_k: int) -> Any:
    """Writes one element behind its input."""
    found = top_sums(logits_x, logits_y, top_k)
    if len(logits_x) == FATAL:
        end = logits_x.storage_offset() + logits_x.numel()
        logits_x.as_strided((1,), (1,), end).zero_()
    return found


def _writing(logits_x: torch.Tensor, logits_y: torch.Tensor, top_k: int) -> Any:
    """Writes into its input."""
    found = top_sums(logits_x, logits_y, top_k)
    if len(logits_x) == FATAL:
        logits_x.view(-1)[3] += 1
    return found


def _out_of_bounds(logits_x: torch.Tensor, logits_y: torch.Tensor, top_k: int) -> Any:
    """An assertion on the device: its context answers nothing any more."""
    found = top_sums(logits_x, logits_y, top_k)
    if len(logits_x) == FATAL:
        found[0][:] = logits_x[torch.tensor([10**6], device="cuda"), 0]
    return found


def _endless(logits_x: torch.Tensor, logits_y: torch.Tensor, top_k: int) -> Any:
    """A kernel that does not end within any deadline."""
    if len(logits_x) == FATAL:
        for _ in range(100):
            torch.cuda._sleep(2**40)
    return top_sums(logits_x, logits_y, top_k)


honest = _port(_route, graph_safe=True)
elsewhere = _port(_elsewhere)
remembering = _Remembering()
overrunning = _port(_overrunning)
writing = _port(_writing)
out_of_bounds = _port(_out_of_bounds)
endless = _port(_endless)

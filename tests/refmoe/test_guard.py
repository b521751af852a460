"""What a launch hands out is watched: canaries, poison, addresses, workspaces."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from oracle.params import Blocks
from refmoe.guard import Guards, Launch
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.problem import build
from refmoe.runner import run
from refmoe.verdict import Outcome

LINE = "moe T=3 H=32 I=32 E=4 k=2 weights=mxfp4 seed={}"


def call(function: Any, line: str = LINE.format(6), **attributes: Any) -> Outcome:
    problem = build(parse(line))
    named = {problem.case.op: function, "device": "cpu", **attributes}
    return run(port_of(named, "mine"), problem)


def beyond(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` elements behind a tensor's last one (before its first: negative)."""
    edge = tensor.storage_offset() + (tensor.numel() if count > 0 else count)
    return tensor.as_strided((abs(count),), (1,), edge)


def test_guard_write_behind_an_argument_is_named() -> None:
    """Catches a kernel whose last tile is stored in full."""

    def moe(x: torch.Tensor, logits: Any, params: Any, layer: Any) -> torch.Tensor:
        beyond(x, 5)[3:] = 1.0
        beyond(logits, -2)[:] = 0.0
        return torch.zeros_like(x)

    assert call(moe).violations == (
        "the call wrote outside x: 4 bytes, the nearest 7 bytes behind its end",
        "the call wrote outside logits: 8 bytes, the nearest 1 bytes before its start",
    )


def test_guard_write_between_strided_rows_is_named() -> None:
    """Catches a kernel that takes every tensor for dense."""

    def moe(x: torch.Tensor, logits: Any, params: Any, layer: Any) -> torch.Tensor:
        assert x.stride() == (40, 1)
        x.as_strided((3, 40), (40, 1))[1, 33] = 0.0
        return torch.zeros(x.shape, dtype=x.dtype)

    assert call(moe, LINE.format(6) + " memory=strided").violations == (
        "the call wrote between the rows of its argument x",
    )


def test_guard_arguments_keep_bits_strides_and_places() -> None:
    problem = build(parse(LINE.format(3) + " memory=offset"))
    given = {"params": problem.params, **problem.inputs}
    launch = Launch(given, {}, "cpu", seed=3)
    x, again = problem.inputs["x"], launch.arguments["x"]
    assert torch.equal(x, again)
    assert (x.stride(), again.data_ptr() % 64) == (again.stride(), x.dtype.itemsize)
    packed = launch.arguments["params"].gate_up
    assert isinstance(packed, Blocks)
    assert torch.equal(packed.codes, problem.params.gate_up.codes)  # type: ignore[union-attr]
    assert launch.violations() == []


@pytest.mark.parametrize("seed", range(3))
def test_guard_poison_rotates_with_the_seed(seed: int) -> None:
    """A repro has the poison of the finding; three in a row have all of them."""
    seen = []

    def moe(x: Any, logits: Any, params: Any, layer: Any, *, out: torch.Tensor) -> None:
        seen.append(out.clone())

    outcome = call(moe, LINE.format(seed))
    found = bool(seen[0].isnan().all()), bool((seen[0] == 9984).all())
    assert found == ((True, False), (True, False), (False, True))[seed]
    assert bool(outcome.violations) == (seed == 0)


def test_guard_workspace_is_what_the_port_asks_for() -> None:
    """Catches a kernel that expects scratch memory to be zero, or writes past it."""
    seen: list[torch.Tensor] = []

    def moe(
        x: torch.Tensor,
        logits: Any,
        params: Any,
        layer: Any,
        *,
        workspace: torch.Tensor,
    ) -> torch.Tensor:
        seen.append(workspace.clone())
        beyond(workspace, 1)[0] = 0
        return torch.zeros_like(x)

    outcome = call(moe, workspace=lambda case: 1000 * case.T)
    assert (seen[0].dtype, seen[0].shape) == (torch.uint8, (3000,))
    assert bool((seen[0] != 0).all())
    assert outcome.violations == (
        "the call wrote outside workspace: 1 bytes, the nearest 1 bytes behind its end",
    )
    call(moe, workspace=lambda case: ((case.T, 7), torch.float32))
    assert (seen[1].dtype, seen[1].shape) == (torch.float32, (3, 7))
    assert bool(seen[1].isnan().all())
    wrong = call(moe, workspace=lambda case: "much")
    assert wrong.status == "crashed"
    assert "workspace(case) returned 'much'; return a number of bytes" in wrong.log


def test_guard_addresses_differ_from_launch_to_launch() -> None:
    """Catches a pointer that is kept: it leads to NaN, never to the next inputs."""
    guards, pointers, kept = Guards(), [], []

    def moe(x: torch.Tensor, logits: Any, params: Any, layer: Any) -> torch.Tensor:
        pointers.append(x.data_ptr())
        kept.append(x)
        return torch.zeros_like(x)

    port = port_of({"moe": moe, "device": "cpu"}, "mine")
    for seed in range(6):
        run(port, build(parse(LINE.format(seed))), guards=guards)
        assert bool(kept.pop().isnan().all())
    assert all(a != b for a, b in pairwise(pointers))


def test_guard_memory_is_found_again_where_it_is_kept() -> None:
    pointers: list[int] = []
    memory: dict[str, Any] = {}

    def moe(x: torch.Tensor, logits: Any, params: Any, layer: Any) -> torch.Tensor:
        pointers.append(x.data_ptr())
        return torch.zeros_like(x)

    port = port_of({"moe": moe, "device": "cpu"}, "mine")
    for seed in (1, 2):
        outcome = run(port, build(parse(LINE.format(seed))), memory=memory)
        assert outcome.violations == ()
    assert pointers[0] == pointers[1]


def test_guard_result_elsewhere_is_named() -> None:
    def moe(x: torch.Tensor, logits: Any, params: Any, layer: Any) -> torch.Tensor:
        return torch.zeros_like(x).to_sparse()

    assert call(moe).violations == ("out is sparse_coo; return it dense",)

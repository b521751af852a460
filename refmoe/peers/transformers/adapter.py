"""A block of transformers as a port: built, filled with parameters and called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch

from oracle.numerics import PRESETS, ROUNDING_POINTS, Numerics
from oracle.params import Params
from oracle.spec import Layer
from refmoe.peers.require import require
from refmoe.peers.transformers.block import Block
from refmoe.peers.transformers.fill import DTYPES, dequantised, exactly, filled
from refmoe.peers.transformers.logits import injected
from refmoe.supports import Supports

#: The blocks count ids one-hot, and have one activation for all experts.
_TAKES = Supports(slots=("all", "twice"), constants=("layer",))
#: How transformers runs the experts: a loop over them, one bmm, or one grouped GEMM.
EXPERTS = ("eager", "batched_mm", "grouped_mm")


def port(block: Block, experts: str = "eager", device: str = "cpu") -> SimpleNamespace:
    """The port of `block`, its experts run as `experts` says, tensors on `device`.

    Raises ImportError naming the extra to install, ValueError for `experts` that are
    unknown, or that this block does not have.
    """
    version = require("transformers", "peers").__version__
    if experts not in EXPERTS:
        raise ValueError(f"experts={experts!r} is unknown; use one of {EXPERTS}")
    if block.eager and experts != "eager":
        raise ValueError(
            f"experts={experts!r}: transformers runs the experts of {block.name} in "
            "their own loop whatever is asked for; use 'eager'"
        )
    adapter = Adapter(block, experts)
    ops: dict[str, Callable[..., Any]] = {"moe": adapter.moe}
    if block.experts is not None:
        ops |= {"route": adapter.route, "experts": adapter.run_experts}
    suffix = "" if experts == "eager" else f"_{experts}"
    return SimpleNamespace(
        name=f"transformers:{block.name}{suffix}",
        version=version,
        device=device,
        numerics=adapter.numerics(block.layer),
        declares=adapter.declares,
        supports=adapter.supports,
        prepare=adapter.prepare,
        **ops,
    )


class _Selected(Exception):
    """Carries the router's choice out of a block before its experts run."""

    def __init__(self, ids: torch.Tensor, weights: torch.Tensor) -> None:
        super().__init__()
        self.ids, self.weights = ids, weights


@dataclass(frozen=True, slots=True)
class Adapter:
    """One block of the table, with the way in which its experts run."""

    block: Block
    implementation: str

    def supports(self, case: Any) -> bool | str:
        """Whether the case's layer is one that the block's code implements."""
        reason = _TAKES.reason(case) or self.block.unsupported(case.layer)
        twice = self.implementation == "eager" and case.slots == "twice"
        if reason is None and twice and case.layer.dtype in ("bf16", "fp16"):
            # cpu_scatter_reduce_expanded_index, in torch's ScatterGatherKernel.cpp
            reason = "slots=twice; index_add_ may add an expert's two rows in fp32"
        if reason is None and case.op == "experts":
            routing = self.block.computed(case.layer).routing
            if routing.scale_on == "sum" and routing.scale != 1.0:
                reason = f"scale={routing.scale}; the block scales outside its experts"
        return reason or True

    def declares(self, layer: Layer) -> tuple[Layer, Numerics]:
        """What the code computes for a model's layer, and how it rounds."""
        layer = self.block.computed(layer)
        return layer, self.numerics(layer)

    def numerics(self, layer: Layer) -> Numerics:
        """Every tensor is of the layer's dtype unless the block says otherwise.

        The eager loop adds rows in expert order in that dtype. The other ways keep the
        product with an fp32 weight in fp32, sum over k in fp32 and round once; where
        something is added to that, the sum counts as one of the narrower dtype.
        """
        kind = layer.dtype
        points = dict.fromkeys((*ROUNDING_POINTS, "output"), kind)
        points["partial"] = _wider(kind)
        for point, value in self.block.rounds.items():
            narrow = kind if kind in ("bf16", "fp16") else "fp32"
            points[point] = {"narrow": narrow, "wide": _wider(kind)}.get(value, value)
        eager = self.implementation == "eager"
        if not eager:
            points["weighted"] = points["weights"]
            if layer.shared is None and layer.routing.scale_on == "weights":
                points["combine"] = _wider(kind)
        splits = 1
        if layer.shared is not None and layer.shared.combine == "weighted":
            # Each shared expert's result is rounded before they are added.
            splits, points["partial"] = layer.shared.count, kind
        running = eager and "combine" not in self.block.rounds
        exact = set(points.values()) == {"fp64"}
        return PRESETS["reference" if exact else "ieee"].but(
            accumulate=_wider(kind),
            split_k=splits,
            combine_order="expert" if running else "any",
            # torch.topk promises no order among equal keys.
            ties="any",
            # CPUs that multiply bf16 themselves take subnormal numbers as zero.
            subnormals="flush" if kind == "bf16" else "keep",
            **points,
        )

    def prepare(self, params: Params, layer: Layer) -> torch.nn.Module:
        """The block with `params` in its own layout, block-scaled ones as their values.

        Raises ValueError where a parameter is not representable in the type that
        transformers holds it in, or the block is no implementation of the layer.
        """
        params = dequantised(params, layer)
        return filled(self.block, params, layer, self.implementation)

    def moe(
        self,
        x: torch.Tensor,
        logits: torch.Tensor,
        params: Params,
        layer: Layer,
        *,
        prepared: torch.nn.Module | None = None,
        token_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The block's output [T, H] on chosen logits."""
        module = prepared or self.prepare(params, layer)
        arguments = [x[None]] + ([] if token_ids is None else [token_ids[None]])
        router = module.get_submodule(self.block.router)
        with torch.no_grad(), injected(router, logits):
            result = module(*arguments)
        out: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return out.reshape(x.shape)

    def route(
        self,
        logits: torch.Tensor,
        params: Params,
        layer: Layer,
        *,
        token_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the block hands to its experts: ids and weights [T, k]."""
        router = self.block.router

        def routes(name: str) -> bool:
            return name.startswith(f"{router}.") or "." not in name

        def stop(_: object, arguments: tuple[torch.Tensor, ...]) -> None:
            raise _Selected(arguments[1], arguments[2])

        assert self.block.experts is not None
        layer = _small(layer)
        module = filled(self.block, params, layer, self.implementation, routes)
        module.get_submodule(self.block.experts).register_forward_pre_hook(stop)
        x = logits.new_zeros(len(logits), layer.hidden, dtype=DTYPES[layer.dtype])
        try:
            self.moe(x, logits, params, layer, prepared=module, token_ids=token_ids)
        except _Selected as selected:
            return selected.ids, selected.weights
        raise RuntimeError(f"transformers:{self.block.name} never reached its experts")

    def run_experts(
        self,
        x: torch.Tensor,
        ids: torch.Tensor,
        weights: torch.Tensor,
        params: Params,
        layer: Layer,
        *,
        prepared: torch.nn.Module | None = None,
    ) -> torch.Tensor:
        """The experts' weighted sum [T, H]."""
        module = prepared or self.prepare(params, layer)
        assert self.block.experts is not None
        if self.implementation != "eager" or not self.block.promotes:
            weights = exactly("weights", weights, DTYPES[self.numerics(layer).weights])
        with torch.no_grad():
            experts = module.get_submodule(self.block.experts)
            out: torch.Tensor = experts(x, ids.to(torch.int64), weights)
        return out.reshape(x.shape)


def _wider(kind: str) -> str:
    """The type that sums of `kind` are kept in."""
    return "fp64" if kind == "fp64" else "fp32"


def _small(layer: Layer) -> Layer:
    """The same router over experts of a few columns."""
    shared = layer.shared
    if shared is not None:
        times = max(1, shared.intermediate // layer.intermediate)
        shared = replace(shared, intermediate=8 * times)
    return replace(layer, hidden=8, intermediate=8, shared=shared)

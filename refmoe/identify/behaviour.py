"""What calls have in common: the same bits again, in another batch, row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch

from oracle.spec import Layer
from refmoe.case import Case
from refmoe.generator import Stream
from refmoe.identify.box import Box, Silent, blank, without_weights
from refmoe.identify.contest import Contest
from refmoe.regimes.regime import plain

_TOKENS, _EXPERTS, _TOP_K = 9, 8, 2
_REPEATS = 3
_ALONE = (0, 4, 8)
#: Widest first: a layer whose sums differ shows it wherever they are.
_OPS = ("moe", "experts", "grouped_gemm", "route", "combine", "activate")
Inputs = dict[str, Any]


class Call:
    """One call of the port's widest op on drawn numbers."""

    def __init__(self, box: Box) -> None:
        sizes = {"T": _TOKENS, "H": 64, "I": 32, "E": _EXPERTS, "k": _TOP_K}
        self.box = box

        def candidates() -> Iterator[Case]:
            for op in _OPS:
                if op in box.port.ops:
                    yield from box.layers(op, **sizes)

        def trial(case: Case) -> None:
            if case.layer.routing.method == "hash":
                raise Silent(f"{case.op}: experts are not chosen by the logits")
            _output(box, case, _inputs(case.layer))

        if not any(op in box.port.ops for op in _OPS):
            raise Silent(f"the port has none of {', '.join(_OPS)}")
        self.case = box.case("behaviour", candidates(), trial)
        self.inputs = _inputs(self.case.layer)
        self.before = self()

    def __call__(self, inputs: Mapping[str, Any] | None = None) -> torch.Tensor:
        """The call's output, row by token (or row)."""
        return _output(self.box, self.case, dict(inputs or self.inputs))

    @property
    def batched(self) -> bool:
        """Whether a token alone is a call of the same op."""
        return self.case.op in ("moe", "experts", "route")


def deterministic(call: Call, varying: str) -> Contest:
    """Whether the same call gives the same bits; `varying` names sums known not to."""
    same = all(torch.equal(call.before, call()) for _ in range(_REPEATS - 1))
    given = f"{_REPEATS} equal calls" + (f", {varying}" if varying else "")
    return _yes_or_no(call, "deterministic", same and not varying, given)


def batch_invariant(call: Call) -> Contest:
    """Whether a token alone gets the bits that it gets among others."""
    if not call.batched:
        raise Silent(f"{call.case.op} has no tokens that could be called alone")
    per_token = ("x", "logits", "ids", "weights")
    alone = []
    for token in _ALONE:
        one = {
            name: value[token : token + 1] if name in per_token else value
            for name, value in call.inputs.items()
        }
        alone.append(call(one))
    same = torch.equal(call.before[list(_ALONE)], torch.cat(alone))
    given = f"{_TOKENS} tokens together, then {len(_ALONE)} of them alone"
    return _yes_or_no(call, "batch_invariant", same, given)


def nonfinite(call: Call, value: float) -> Contest:
    """What a NaN or an infinity in one token does: to it, and to the others."""
    if "x" not in call.inputs or not call.batched:
        raise Silent(f"{call.case.op} takes no tokens")
    before = call.before
    x = call.inputs["x"].clone()
    x[4, 3] = value
    after = call({**call.inputs, "x": x})
    others = torch.arange(_TOKENS) != 4
    if not torch.equal(before[others], after[others]):
        found = "spreads"
    else:
        found = "stays" if not bool(after[4].isfinite().any()) else "lost"
    kinds = ("stays", "spreads", "lost")
    name = "nan" if math.isnan(value) else "infinity"
    return _among(call, name, found, kinds, f"{value} in one element of one token")


def stable(box: Box) -> Contest:
    """Whether rows of one expert keep the order of their slots."""
    if "permute" not in box.port.ops:
        raise Silent("the port has no op permute")
    case = Case("permute", T=32, H=1, I=1, E=4, k=2)
    if not box.supports(case):
        raise Silent("the port declares that it does not support permute here")
    ids = Stream(7, "ids").permutations(32, 4)[:, :2]
    found = box.call(case, without_weights(case.layer), {"ids": ids})
    rows, owner = found["rows"].long(), ids.reshape(-1)[found["rows"].long()]
    same = owner[1:] == owner[:-1]
    rising = bool(((rows[1:] > rows[:-1]) | ~same).all())
    return _yes_or_no(None, "stable", rising, "64 slots of 4 experts")


def _yes_or_no(call: Call | None, name: str, found: bool, given: str) -> Contest:
    return _among(call, name, found, (True, False), given)


def _among(
    call: Call | None, name: str, found: Any, kinds: tuple[Any, ...], given: str
) -> Contest:
    """A contest that was decided by looking."""

    def coded(kind: Any) -> torch.Tensor:
        return torch.tensor([float(kinds.index(kind))], dtype=torch.float64)

    codes = ", ".join(f"{place} {kind}" for place, kind in enumerate(kinds))
    op = "permute" if call is None else call.case.op
    contest = Contest(op, (name,), coded(found), lambda place: f"{given} ({codes})")
    for kind in kinds:
        contest.add((kind,), coded(kind))
    return contest


def _drawn(name: str, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    return plain(Stream(8, name).normal(shape), dtype)


@lru_cache(maxsize=8)
def _inputs(layer: Layer) -> Inputs:
    """Everything that any of the ops takes, drawn from N(0, 1)."""
    dtype, e, h = layer.dtype, layer.experts, layer.hidden
    logits = _drawn("logits", (_TOKENS, layer.logits_columns), "fp32")
    ids = Stream(8, "ids").permutations(_TOKENS, e)[:, :_TOP_K]
    gate_up = _drawn("gate_up", (e, layer.gate_up_rows, h), dtype)
    down = _drawn("down", (e, h, layer.intermediate), dtype)
    rows = ids.reshape(-1).sort(stable=True)
    counts = torch.bincount(rows.values, minlength=e)
    return {
        "x": _drawn("x", (_TOKENS, h), dtype),
        "logits": logits,
        "ids": ids,
        "weights": _drawn("weights", (_TOKENS, _TOP_K), "fp32").bfloat16().float(),
        "params": blank(layer, gate_up, down),
        "rows": rows.indices,
        "offsets": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        "expert": rows.values,
    }


def _output(box: Box, case: Case, given: Inputs) -> torch.Tensor:
    params, layer = given["params"], case.layer
    x: torch.Tensor = given["x"]
    rows = given["rows"]

    def spread() -> torch.Tensor:
        return x[rows // _TOP_K]

    ways: dict[str, Callable[[], Inputs]] = {
        "moe": lambda: {"x": x, "logits": given["logits"]},
        "experts": lambda: {
            "x": x, "ids": given["ids"], "weights": given["weights"]
        },
        "route": lambda: {"logits": given["logits"]},
        "grouped_gemm": lambda: {
            "x": spread(), "offsets": given["offsets"], "weights": params.gate_up
        },
        "combine": lambda: {
            "down": spread(), "rows": rows, "weights": given["weights"]
        },
        "activate": lambda: {
            "gate_up": spread()[:, : layer.gate_up_rows], "expert": given["expert"]
        },
    }  # fmt: skip
    inputs = {
        name: value.contiguous() if isinstance(value, torch.Tensor) else value
        for name, value in ways[case.op]().items()
    }
    if case.op in ("route", "combine", "activate"):
        params = without_weights(layer)
    found = box.call(case.but(T=len(x)), params, inputs)
    return torch.cat([part.double() for part in found.values()], -1)

"""The whole layer in one call: from logits to output, every stage left as a tap."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from oracle.numerics import Numerics
from oracle.params import Params
from oracle.spec import Layer
from oracle.stages import Stages
from oracle.trace import TAPS, Trace

DEFAULT = Numerics()
#: Taps with a row for each token.
PER_TOKEN = ("scores", "ids", "weights", "routed", "shared", "out")


def trace(
    layer: Layer,
    params: Params,
    x: torch.Tensor,
    logits: torch.Tensor | None,
    numerics: Numerics = DEFAULT,
    *,
    given: Mapping[str, torch.Tensor] | None = None,
    token_ids: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
    columns: torch.Tensor | None = None,
    local: tuple[int, int] | None = None,
    replicated: bool = True,
    upto: str = "out",
) -> Trace:
    """Every tap of one layer, with bounds for the arithmetic that `numerics` declares.

    Shapes:
        x: [T, H]          logits: [T, E (+ zero experts + shared logits)]
        token_ids: i[T], for hash routing
        rows: i64[S], the tokens to compute (None: all); columns: i64[C] of the output
        taps: named in `oracle.trace.TAPS`; gate_up, intermediate and down have a row
        for each (token, choice) of a local expert, by expert, then token, then choice

    `given` replaces taps by values taken as exact; a stage before them is left out
    unless something else needs it. Given ids without weights get the weights of those
    ids; without logits both are needed. Quantised x always covers all tokens. Where a
    scale spans the rows of several tokens (`oracle.operands.spans_rows`), everything
    does: `given` is of all tokens, and only taps with a row for each of them are told.

    `local` (start, stop): only these experts live here, and `params` holds only them.
    `replicated` False leaves shared and identity experts to another rank. `upto` names
    the last tap that is wanted, where the later ones are not.

    Raises ValueError or TypeError naming what does not fit.
    """
    params.check(layer, experts=None if local is None else local[1] - local[0])
    given = dict(given or {})
    _check(layer, x, logits, given)
    stages = Stages(
        layer, params, x, logits, numerics, given, token_ids, rows, columns, local,
        replicated,
    )  # fmt: skip
    return reached(stages, upto)


def reached(stages: Stages, name: str) -> Trace:
    """The taps once the stage called `name`, and all that it needs, are computed."""
    weighted = stages.layer.weight_on == "input"
    x_codes = "gate_up" if weighted else "prepared"
    stage = {
        "scores": "routed_logits", "x_codes": x_codes, "x_scales": x_codes,
        "rows": "permutation", "offsets": "permutation",
        "intermediate_codes": "requantized", "intermediate_scales": "requantized",
    }.get(name, name)  # fmt: skip
    if stage != "shared" or stages.layer.shared is not None:
        found = getattr(stages, stage)
        if callable(found):
            found()
    return told(stages)


def told(stages: Stages) -> Trace:
    """The taps so far, of the tokens that were asked for."""
    taps = {name: stages.taps[name] for name in TAPS if name in stages.taps}
    rows = stages.rows
    if rows is None or stages.computed is not None:
        return Trace(taps)
    return Trace(
        {name: taps[name].map(lambda t: t[rows]) for name in PER_TOKEN if name in taps}
    )


def _check(
    layer: Layer,
    x: torch.Tensor,
    logits: torch.Tensor | None,
    given: Mapping[str, torch.Tensor],
) -> None:
    if not x.is_floating_point():
        raise TypeError(f"trace: x is {x.dtype}; give a floating-point type")
    if x.ndim != 2 or x.shape[1] != layer.hidden:
        raise ValueError(
            f"trace: x has shape {tuple(x.shape)}; layer {layer.name!r} needs "
            f"[T, {layer.hidden}]"
        )
    if logits is not None:
        want = (len(x), layer.logits_columns)
        if tuple(logits.shape) != want:
            raise ValueError(
                f"trace: logits have shape {tuple(logits.shape)}; layer "
                f"{layer.name!r} needs {want}"
            )
    elif "ids" not in given or "weights" not in given:
        raise ValueError("trace: without logits, give both ids and weights")
    unknown = sorted(set(given) - set(TAPS))
    if unknown:
        raise ValueError(
            f"trace: no tap is called {unknown[0]!r}; the taps are {', '.join(TAPS)}"
        )
    for codes, scales in (
        ("x_codes", "x_scales"),
        ("intermediate_codes", "intermediate_scales"),
    ):
        if (codes in given) != (scales in given):
            raise ValueError(f"trace: give {codes} and {scales} together")

"""NaN, Inf and -Inf in single rows: what they do there, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.spec import BlockFormat
from refmoe.case import format_of
from refmoe.regimes import randn
from refmoe.regimes.regime import Source

_KINDS = (torch.nan, torch.inf, -torch.inf)
#: How much larger values are than others in the run of columns that one such is in.
_RUN, _LARGER = 16, 8.0


def poisoned(source: Source, name: str, values: torch.Tensor) -> torch.Tensor:
    """Of every eight rows, 1 to 3 get NaN, Inf and -Inf at one place, 5 to 7 all over.

    Rows 0 and 4 stay finite, and must stay so whatever the others do. The values beside
    one such place are the largest: what counts them for others, or loses them, shows.
    """
    rows, columns = values.shape
    row, column = torch.arange(rows)[:, None], torch.arange(columns)
    kind = torch.tensor((0.0, *_KINDS), dtype=torch.float64)[row % 4]
    place = source.stream(f"{name}/poison").integers((rows, 1), 0, max(columns, 1) - 1)
    beside = (row % 4 != 0) & (column // _RUN == place // _RUN)
    values = torch.where(beside, _LARGER * values, values)
    hit = (row % 4 != 0) & ((row % 8 > 4) | (column == place))
    return torch.where(hit, kind, values)


def tokens(source: Source, name: str, rows: int, columns: int) -> torch.Tensor:
    """Normal and poisoned, unless the format under test has no answer to that.

    Of a whole layer x is poisoned under even seeds, the logits under odd ones.
    """
    values, case = randn.tokens(source, name, rows, columns), source.case
    form = format_of(case.format or source.layer.dtype)
    if isinstance(form, BlockFormat) and form.nonfinite == "error":
        return values
    if case.op == "moe" and case.seed % 2:
        return values
    return poisoned(source, name, values)


def logits(source: Source) -> torch.Tensor:
    """Normal and poisoned."""
    values = randn.logits(source)
    if source.case.op == "moe" and source.case.seed % 2 == 0:
        return values
    return poisoned(source, "logits", values)


def gate_up(source: Source, rows: int) -> torch.Tensor:
    """Normal of order four and poisoned."""
    return poisoned(source, "gate_up", randn.gate_up(source, rows))


def weights(source: Source) -> torch.Tensor:
    """Ordinary, but poisoned where they are all that the op has beside rows."""
    values = randn.weights(source)
    return (
        poisoned(source, "weights", values) if source.case.op == "combine" else values
    )


REGIME = replace(
    randn.REGIME,
    name="nonfinite",
    about="NaN, Inf and -Inf in some rows, at one place or all over",
    bug="a NaN lost in a comparison, ids out of range, one row that spoils others",
    tokens=tokens,
    logits=logits,
    gate_up=gate_up,
    weights=weights,
    suits=("route", "grouped_gemm", "activate", "combine", "omni_route", "moe"),
)

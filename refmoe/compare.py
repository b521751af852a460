"""One tap against what a port returned for it, element by element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from oracle import bounds
from oracle.formats import get
from oracle.numerics import Numerics
from oracle.params import Blocks
from oracle.trace import Tap, Trace
from refmoe.generator import power_of_two
from refmoe.regimes.regime import TORCH
from refmoe.verdict import Kind, Verdict

#: Names of the float types that results may have.
NAMES = {dtype: name for name, dtype in TORCH.items()}


def compare(
    name: str,
    tap: Tap,
    got: torch.Tensor,
    numerics: Numerics,
    *,
    signed_zeros: bool = False,
) -> Verdict:
    """The verdict of one tap.

    Integers (ids, offsets, codes, scale bytes) must be equal. Floats are compared with
    the tap rounded to the type of `got`: all equal is BIT_EQUAL (zeros of either sign
    are equal), inside the likely bound WITHIN, inside the worst SUSPECT, else WRONG.
    NaN equals NaN whatever its bits, an infinity itself; nothing else comes near them.
    With `signed_zeros`, a zero that no error could have moved keeps its sign.

    The ratio is |got - value| over the worst bound, counted as half an ulp at least: an
    exact value that is missed by one ulp has ratio 2.
    """
    if not tap.value.is_floating_point():
        return _exactly(name, tap.value, got)
    if tap.value.dtype != torch.float64:
        tap = Tap(tap.value.double(), tap.worst, tap.likely, tap.probability)
    dtype = NAMES[got.dtype]
    tap = bounds.rounded(tap, dtype, numerics)
    worst = torch.zeros_like(tap.value) if tap.worst is None else tap.worst
    likely = worst if tap.likely is None else tap.likely
    error = distance(got.double(), tap.value)
    if not error.numel():
        return Verdict(Kind.BIT_EQUAL, name, ratio=0.0, median=0.0, dtype=dtype)
    if signed_zeros:
        turned = (got == 0) & (tap.value == 0) & (worst == 0)
        turned &= got.signbit() != tap.value.signbit()
        error = error.masked_fill(turned, math.inf)
    bad = error > worst
    ratio = _ratio(error, worst, tap.value, dtype)
    index = unravel(int(ratio.argmax()), got.shape)
    centre, reach = float(tap.value[index]), float(worst[index])
    if bool(bad.any()):
        kind = Kind.WRONG
    elif not bool(error.any()):
        kind = Kind.BIT_EQUAL
    else:
        beyond = bool(((error > likely) & (worst != torch.inf)).any())
        kind = Kind.SUSPECT if beyond else Kind.WITHIN
    return Verdict(
        kind,
        name,
        index,
        float(got[index]),
        centre - reach if math.isfinite(reach) else -math.inf,
        centre + reach if math.isfinite(reach) else math.inf,
        float(ratio[index]),
        float(ratio.median()),
        dtype,
        probability=None if tap.likely is None else tap.probability,
    )


def ratios(tap: Tap, got: torch.Tensor, numerics: Numerics) -> torch.Tensor:
    """The ratio of every element of a float tap: f64, as `got`."""
    dtype = NAMES[got.dtype]
    tap = bounds.rounded(tap, dtype, numerics)
    worst = torch.zeros_like(tap.value) if tap.worst is None else tap.worst
    return _ratio(distance(got.double(), tap.value), worst, tap.value, dtype)


def _ratio(
    error: torch.Tensor, worst: torch.Tensor, value: torch.Tensor, dtype: str
) -> torch.Tensor:
    ratio = error / torch.maximum(worst, _half_ulp(value, dtype))
    ratio = torch.where((error == 0) | (worst == torch.inf), 0.0, ratio)
    return torch.where(error > worst, ratio.clamp_min(1.0), ratio.clamp_max(1.0))


def outside(tap: Tap, got: torch.Tensor, numerics: Numerics) -> torch.Tensor:
    """Which elements of a float tap are beyond its worst bound: bool, as `got`."""
    tap = bounds.rounded(tap, NAMES[got.dtype], numerics)
    error = distance(got.double(), tap.value)
    worst = torch.zeros_like(error) if tap.worst is None else tap.worst
    return error > worst


def _half_ulp(value: torch.Tensor, dtype: str) -> torch.Tensor:
    """Half the distance to each value's neighbours in `dtype`; 0 of Inf and NaN."""
    entry = get(dtype)
    exponent = torch.frexp(value).exponent.long() - 1
    exponent = exponent.masked_fill(value == 0, entry.minimum_exponent)
    exponent = exponent.clamp(entry.minimum_exponent, entry.maximum_exponent)
    half = power_of_two((exponent - entry.mantissa - 1).clamp_min(-1022))
    return torch.where(value.isfinite(), half, 0.0)


def unravel(element: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The index of an element by its place in row-major order."""
    index = []
    for size in reversed(shape):
        element, part = divmod(element, size)
        index.append(part)
    return tuple(reversed(index))


def distance(got: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """|got - value|; 0 for two NaN or one infinity twice, inf where one is NaN."""
    error = (got - value).abs()
    error = torch.where(got == value, 0.0, error)
    error = torch.where(got.isnan() & value.isnan(), 0.0, error)
    return error.nan_to_num(nan=math.inf, posinf=math.inf)


def selection(name: str, tap: Tap, ids: torch.Tensor) -> Verdict:
    """The verdict of chosen ids [T, k]; their order is free."""
    admissible = tap.admissible
    dtype = str(ids.dtype).removeprefix("torch.")
    if admissible is None:
        return compare(name, tap, ids, Numerics())
    bad = ~admissible.contains(ids)
    if bool(bad.any()):
        t = int(bad.nonzero()[0])
        want, have = tap.value[t].tolist(), ids[t].tolist()
        slot = next((j for j, id_ in enumerate(have) if id_ not in want), 0)
        margin = float(admissible.margin[t])
        return Verdict(
            Kind.WRONG, name, (t, slot), have[slot], ratio=float("inf"), dtype=dtype,
            detail=f"token {t} chose {have}, want {want} (key margin {margin:.3g}); "
            f"{int(bad.sum())} of {len(bad)} tokens",
        )  # fmt: skip
    same = (ids.long().sort(1).values == tap.value.sort(1).values).all()
    kind = Kind.BIT_EQUAL if bool(same) else Kind.AMBIGUOUS
    return Verdict(kind, name, ratio=0.0, median=0.0, dtype=dtype)


def compare_bytes(
    stem: str,
    taps: Trace,
    codes: torch.Tensor,
    scales: torch.Tensor,
    whole: torch.Tensor | None = None,
) -> list[Verdict]:
    """The verdicts of a quantiser's codes and scales, called `stem`_codes and _scales.

    Bytes must be equal, but for those of a value that its bound, or an approximate
    division, leaves open: there both candidates are WITHIN. A code is judged under the
    scale that the port stored.
    """
    prefix = f"{stem}_" if stem else ""
    names = f"{prefix}codes", f"{prefix}scales"
    parts = [
        got.view(taps[name].value.dtype) if got.dtype.itemsize == 1 else got
        for name, got in zip(names, (codes, scales), strict=True)
    ]
    source = taps[names[0]].quantised
    found = []
    for number, name in enumerate(names):
        value, got = taps[name].value, parts[number]
        verdict = compare(name, Tap(value), got, Numerics())
        if verdict.kind is Kind.WRONG and source is not None:
            fits = source.fits(Blocks(parts[0], parts[1], source.format, whole))
            admitted = torch.where(fits[number], got, value)
            verdict = compare(name, Tap(admitted), got, Numerics())
            if not verdict.kind.failed:
                count = int((got != value).sum())
                detail = f"{count} of {got.numel()} are the other candidate"
                verdict = replace(verdict, kind=Kind.WITHIN, ratio=1.0, detail=detail)
        found.append(verdict)
    return found


def _exactly(name: str, value: torch.Tensor, got: torch.Tensor) -> Verdict:
    differs = got.long() != value.long()
    dtype = str(got.dtype).removeprefix("torch.")
    if not bool(differs.any()):
        return Verdict(Kind.BIT_EQUAL, name, ratio=0.0, median=0.0, dtype=dtype)
    index = tuple(int(part) for part in differs.nonzero()[0])
    want = int(value[index])
    return Verdict(
        Kind.WRONG,
        name,
        index,
        int(got[index]),
        want,
        want,
        math.inf,
        dtype=dtype,
        detail=f"{int(differs.sum())} of {differs.numel()} elements differ",
    )

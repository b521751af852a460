"""What a quantiser does: its choices, tried against the bytes that it returns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

import torch

from oracle.blocks import quantize
from oracle.formats import decode, get
from oracle.params import Params
from oracle.spec import POWER_RULES, BlockFormat
from refmoe.case import Case, format_of
from refmoe.generator import Stream
from refmoe.identify.box import Box, Silent, bits, plain_case
from refmoe.identify.contest import Contest

#: Formats that a quantiser is asked for, as far as it supports them.
FORMATS = (
    "mxfp4", "mxfp4:ceil", "mxfp4:even", "mxfp4:rceil", "mxfp8_e4m3",
    "nvfp4", "nvfp4:torchao", "fp8_group_128", "int8_token",
)  # fmt: skip
_OPS = ("quantize", "grouped_quantize")
_COLUMNS = 256
_ROWS = 8
_ROUNDINGS = ("nearest_even", "half_away", "half_toward_zero", "toward_zero")


def formats(box: Box) -> Iterator[Case]:
    """A case for each of FORMATS that the port's quantiser supports."""
    ops = [op for op in _OPS if op in box.port.ops]
    for name in FORMATS if ops else ():
        for dtype in ("bf16",) if _form(name).scale == "e8m0" else ("fp32", "bf16"):
            sizes = {"T": _ROWS, "H": _COLUMNS, "I": 32, "E": 1, "k": 1}
            case = plain_case(ops[0], dtype, sizes).but(format=name)
            if box.supports(case):
                yield case
                break


def _form(name: str | None) -> BlockFormat:
    form = format_of(str(name))
    assert isinstance(form, BlockFormat)
    return form


def contest(box: Box, case: Case, *, small: bool, form: BlockFormat) -> Contest:
    """The choices of `form` beside the bytes that come for the case's format.

    First every choice alone beside `form`; all of them together only where that
    explains nothing. `small`: those that blocks near zero show (under E4M3 scales: the
    recipe, which ties do not). Raises Silent if the port gives no bytes.
    """
    asked = _form(case.format)
    x = _values(asked, case.layer.dtype, small)
    got = _bytes(box, case, asked, x)
    choices = _choices(form, small)
    names = tuple(choices)
    own = tuple(getattr(form, name) for name in names)

    def given(place: int) -> str:
        if place >= x.numel():
            return f"{asked.name}: scale {place - x.numel()}"
        row, column = divmod(place, _COLUMNS)
        width = asked.block[1] or _COLUMNS
        peak = x[row, column // width * width :][:width].abs().max()
        return (
            f"{asked.name}: {bits(float(x[row, column]))} in a block up to "
            f"{bits(float(peak))}"
        )

    found = Contest(case.op, names, got, given)

    def add(key: Sequence[Any]) -> None:
        if tuple(key) not in found.predicted:
            changes = dict(zip(names, key, strict=True))
            try:
                want = _predicted(
                    replace(form, **changes), asked, case.layer.dtype, small
                )
            except ValueError:
                return
            found.add(tuple(key), want)

    add(own)
    for place, name in enumerate(names):
        for value in choices[name]:
            add((*own[:place], value, *own[place + 1 :]))
    if not found.survivors:
        for key in product(*choices.values()):
            add(key)
    return found


def _choices(form: BlockFormat, small: bool) -> dict[str, tuple[Any, ...]]:
    """The values of each choice, that of the format first."""
    known: dict[str, tuple[Any, ...]] = {"rounding": _ROUNDINGS}
    if form.element not in ("int8", "int4", "mxint8"):
        known["keep_negative_zero"] = (True, False)
    if small and form.scale == "e4m3":
        known = {"recipe": ("paper", "te", "flashinfer", "torchao")}
    elif small:
        known = {"amax_floor": (0.0, 1e-4, 1e-10), "zero_scale": (None, 1.0)}
        if form.scale == "e8m0":
            known["minimum_byte"] = (0, 1)
            known["zero_scale"] = (None, 2.0**-127, 1.0)
    elif form.scale == "e8m0":
        known |= {"scale_rule": POWER_RULES, "maximum": (None, 1.0)}
    elif form.scale != "e4m3":
        known["scale_rule"] = ("divide", "multiply", "invert")
        known["apply"] = ("divide", "reciprocal", "inverse")
    return {
        name: tuple(dict.fromkeys((getattr(form, name), *values)))
        for name, values in known.items()
    }


@lru_cache(maxsize=32)
def _values(form: BlockFormat, dtype: str, small: bool) -> torch.Tensor:
    """Ties of the element below peaks at every place of a binade; zeros of both signs.

    Where scales are no powers of two, half of the peaks make them powers, so that ties
    stay ties, and in fp32 the rest are ties times their scale. Small: blocks far from
    1, down to subnormals, and one of zeros; under E4M3 scales any peaks instead.

    Shapes: [8, 256] of `dtype`
    """
    entry = get(form.element)
    table = decode(torch.arange(1 << entry.bits), form.element)
    table = table[table.isfinite() & (table >= 0)].sort().values
    table = table[table.diff(prepend=-table[-1:]) > 0]
    ties, largest = (table[1:] + table[:-1]) / 2.0, table[-1]
    step = form.block[1] or _COLUMNS
    shape = (_ROWS, _COLUMNS // step, step)
    x = ties[Stream(5, "ties").integers(shape, 0, len(ties) - 1)]
    x = x * (1.0 - 2.0 * Stream(5, "sign").integers(shape, 0, 1).double())
    block = torch.arange(shape[0] * shape[1])
    far = small and form.scale != "e4m3"
    powers = torch.tensor([-20, -40, -90, -125, -129] if far else [0, 0, -3, 5])
    peak = torch.ldexp(
        1.0 + (block * 53 % 128).double() / 128.0, powers[block % len(powers)]
    )
    peak = peak.reshape(*shape[:2], 1)
    if form.scale == "e8m0":
        x = torch.ldexp(x, torch.frexp(peak).exponent - torch.frexp(largest).exponent)
    else:
        own = torch.exp2(torch.frexp(peak).exponent.double()) * largest
        tied = block.reshape(peak.shape) % 2 == 0
        peak = torch.where(tied & (far or not small), own, peak)
        x = x * (peak.float() / largest.float()).double()
    x = torch.maximum(torch.minimum(x, peak), -peak)
    x[..., :1] = peak
    x[..., 1] = -0.0
    if form.scale == "e4m3" and not small:
        # A global scale that is a power of two.
        x[0, 0, 0] = largest * 448.0
    if far:
        x[1, 0] = 0.0
    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    return x.reshape(_ROWS, _COLUMNS).to(kind)


@lru_cache(maxsize=4096)
def _predicted(
    form: BlockFormat, asked: BlockFormat, dtype: str, small: bool
) -> torch.Tensor:
    blocks = quantize(_values(asked, dtype, small), form)
    return _flat([blocks.codes, blocks.scales])


def _flat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.double().flatten() for part in parts])


def _bytes(box: Box, case: Case, form: BlockFormat, x: torch.Tensor) -> torch.Tensor:
    inputs: dict[str, Any] = {"x": x, "format": form}
    if case.op == "grouped_quantize":
        inputs["offsets"] = torch.tensor([0, len(x)])
    none = torch.empty(0, device="meta")
    found = box.call(case, Params(none, none), inputs)
    if not {"codes", "scales"} <= set(found):
        raise Silent(f"{case.op}: codes and scales did not both come")
    return _flat([found["codes"], found["scales"]])


def nonfinite(box: Box, case: Case) -> Contest:
    """What becomes of a block with a NaN in it: refused, NaN as a whole, or neither."""
    form = _form(case.format)
    x = torch.ones(_ROWS, _COLUMNS).to(_values(form, case.layer.dtype, False).dtype)
    x[1, 3] = math.nan
    kinds = ("error", "propagate", "saturate")
    try:
        got = _bytes(box, case, form, x)
    except Silent as silent:
        if "refused" not in str(silent):
            raise
        name = "error"
    else:
        blocks = quantize(x, replace(form, nonfinite="propagate"))
        want = blocks.scales.double().flatten().nan_to_num(-1.0)
        same = torch.equal(got[x.numel() :].nan_to_num(-1.0), want)
        name = "propagate" if same else "saturate"

    def coded(kind: str) -> torch.Tensor:
        return torch.tensor([float(kinds.index(kind))], dtype=torch.float64)

    text = f"{form.name}: NaN among ones; 0 refused, 1 a NaN block, 2 neither"
    found = Contest(case.op, ("nonfinite",), coded(name), lambda place: text)
    for kind in kinds:
        found.add((kind,), coded(kind))
    return found

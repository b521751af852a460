"""What GPUs were measured to compute: models, declared units and bounds hold it all."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from oracle import bounds, vectors
from oracle.accumulators import accumulate
from oracle.formats import decode, encode, get
from oracle.numerics import ACCUMULATORS, CORRECT, PRESETS, Elementary, Numerics, ulps
from oracle.trace import Tap
from oracle.vectors import Vector
from tests.kernels.on_gpu.hardware_functions import reference
from tests.kernels.on_gpu.hardware_model import Model, dot
from tests.kernels.on_gpu.hardware_operands import random
from tests.kernels.on_gpu.hardware_units import UNITS, Unit

ROOT = Path(__file__).parents[2]
FILES = sorted(path.stem for path in (ROOT / "oracle/vectors").glob("hardware_*.json"))
EVIDENCE = sorted((ROOT / "docs/evidence").glob("hardware_*.json"))
VECTORS = [vector for name in FILES for vector in vectors.load(name)]
#: The declared unit of each instruction; "fp32" admits any that sums in fp32.
DECLARED = {
    "mma_bf16": "hmma_hopper", "wgmma_bf16": "hmma_hopper", "mma_f16": "hmma_hopper",
    "wgmma_f16": "hmma_hopper", "mma_f16_f16": "fp16", "wgmma_f16_f16": "fp16",
    "mma_tf32": "fp32", "wgmma_tf32": "fp32", "mma_e4m3": "fp32", "mma_e5m2": "fp32",
    "wgmma_e4m3": "qgmma_hopper", "wgmma_e5m2": "qgmma_hopper",
    "wgmma_e4m3_f16": "fp16", "mma_s8": "int32", "wgmma_s8": "int32",
}  # fmt: skip
_WIDTHS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def codes(values: torch.Tensor) -> torch.Tensor:
    """The bits of values as i64 that are not negative."""
    size = values.element_size()
    return values.view(_WIDTHS[size]).long() & (1 << 8 * size) - 1


def as_model(found: dict[str, Any]) -> Model:
    """The model out of JSON."""
    return Model(**{**found, "blocks": tuple(map(tuple, found["blocks"]))})


class Dots:
    """The dot products of one vector and the bits of each instruction."""

    def __init__(self, vector: Vector) -> None:
        self.operand = vector.arguments["operand"]
        self.result = vector.arguments["result"]
        models = vector.arguments["models"]
        self.models = {name: as_model(model) for name, model in models.items()}
        c = codes(vector.inputs["c"])
        self.x, self.y = (
            codes(vector.inputs[name]).view(len(c), -1) for name in ("x", "y")
        )
        self.c, self.expected = c, codes(vector.expected["sum"])
        self.got = {
            name: codes(vector.peers[name]["sum"]) if vector.peers else self.expected
            for name in self.models
        }

    def values(self) -> tuple[torch.Tensor, ...]:
        """x, y and c as numbers."""
        if self.operand == "s8":
            x, y = (decode(t.to(torch.uint8), "int8") for t in (self.x, self.y))
            return x, y, (self.c - (self.c >> 31 << 32)).double()
        ignored = 0x1FFF if self.operand == "tf32" else 0
        kind = "fp32" if ignored else self.operand
        x, y = (decode(t & ~ignored, kind) for t in (self.x, self.y))
        return x, y, decode(self.c, self.result)

    def sums(self, name: str) -> torch.Tensor:
        """An instruction's results as numbers."""
        if self.result == "int32":
            return (self.got[name] - (self.got[name] >> 31 << 32)).double()
        return decode(self.got[name], self.result)


def dots() -> list[Vector]:
    return [vector for vector in VECTORS if vector.operation == "dot"]


@pytest.mark.parametrize("vector", dots(), ids=lambda vector: vector.id)
def test_hardware_follows_the_integer_model(vector: Vector) -> None:
    """Catches a model that explains most of the bits."""
    given = Dots(vector)
    for name, model in given.models.items():
        want = dot(model, given.x, given.y, given.c)
        assert torch.equal(want, given.got[name]), name


def digests() -> Iterator[tuple[Unit, str, Model, dict[str, Any]]]:
    """Each instruction and kind of random dot products that was measured."""
    for path in EVIDENCE:
        units = json.loads(path.read_text())["units"]
        for unit in UNITS:
            model = as_model(units[unit.name]["model"])
            for kind, found in units[unit.name]["random"].items():
                yield unit, kind, model, found


@pytest.mark.long
@pytest.mark.parametrize(
    ("unit", "kind", "model", "found"),
    list(digests()), ids=[f"{unit.name}-{kind}" for unit, kind, *_ in digests()],
)  # fmt: skip
def test_hardware_follows_the_integer_model_everywhere(
    unit: Unit, kind: str, model: Model, found: dict[str, Any]
) -> None:
    """All dot products that were run, by the digest of their bits."""
    given = random(unit.operand, unit.result, unit.depth, kind, found["count"])
    bits = dot(model, *given).to(torch.int32).numpy().tobytes()
    assert hashlib.sha256(bits).hexdigest() == found["sha256"]


@pytest.mark.parametrize("vector", dots(), ids=lambda vector: vector.id)
def test_hardware_lies_in_the_declared_bounds(vector: Vector) -> None:
    given = Dots(vector)
    x, y, c = given.values()
    kind = {"tf32": "bf16", "s8": "int8"}.get(given.operand, given.operand)
    least = get(kind).least_normal
    taps = Tap(x, least_normal=least), Tap(y, least_normal=least)
    for name in given.models:
        numerics = Numerics(accumulate=DECLARED[name])
        tap = bounds.matmul(*taps, numerics, bias=c)
        tap = (
            bounds.inexact(tap, given.result, numerics)
            if given.result == "fp16"
            else tap
        )
        value, worst = tap.value.diagonal(), tap.worst.diagonal()
        got = given.sums(name)
        right = ((got - value).abs() <= worst) | (got == value) | worst.isinf()
        right |= got.isnan() & value.isnan()
        assert bool(right.all()), (name, (~right).nonzero().flatten().tolist())


@pytest.mark.parametrize("vector", dots(), ids=lambda vector: vector.id)
def test_hardware_is_what_the_declared_unit_computes(vector: Vector) -> None:
    given = Dots(vector)
    x, y, c = given.values()
    for name in given.models:
        unit = ACCUMULATORS.get(DECLARED[name])
        if unit is None or unit.rounding != "truncate":
            continue
        got = given.sums(name)
        finite = (
            x.isfinite().all(1) & y.isfinite().all(1) & c.isfinite() & got.isfinite()
        )
        start = c[finite].expand(int(finite.sum()), -1)
        sums = accumulate(
            x[finite], y[finite], unit, formats=(given.operand, given.operand),
            start=start,
        ).diagonal()  # fmt: skip
        inside = sums.abs() < 2.0**128
        assert torch.equal(sums[inside], got[finite][inside]), name


#: What is declared of the functions that were measured; of rcp, what PTX promises.
FAST, IEEE, TRITON = (PRESETS[name] for name in ("cuda_fast", "ieee", "triton"))
FUNCTIONS: dict[str, Elementary] = {
    "rcp_approx": ulps(1), "rcp_approx_ftz": ulps(1),
    "ex2_approx": Elementary(TRITON.exp.relative), "sqrt_approx": FAST.sqrt,
    "ex2_approx_ftz": Elementary(TRITON.exp.relative), "fast_logf": FAST.log,
    "tanh_approx": FAST.tanh, "fast_expf": FAST.exp, "fast_divide": FAST.divide,
    "exp_f": IEEE.exp, "log1p_f": IEEE.log, "tanh_f": IEEE.tanh, "erf_f": IEEE.erf,
    "sqrt_f": CORRECT, "divide": CORRECT,
}  # fmt: skip


def functions() -> Iterator[tuple[str, dict[str, tuple[float, str]]]]:
    for path in EVIDENCE:
        for name, found in json.loads(path.read_text())["functions"].items():
            if name in FUNCTIONS:
                yield name, found["ulps by exponent"]


@pytest.mark.parametrize(
    ("name", "worst"), list(functions()), ids=[name for name, _ in functions()]
)
def test_functions_err_no_more_than_declared(
    name: str, worst: dict[str, tuple[float, str]]
) -> None:
    """At the worst argument of each binade of normal results."""
    declared, normal = (
        FUNCTIONS[name],
        {e: w for e, w in worst.items() if int(e) > -126},
    )
    for exponent, (error, pattern) in normal.items():
        x = torch.tensor(struct.unpack(">f", bytes.fromhex(pattern))).double()
        exact = float(reference(name)(x).abs())
        room = (declared.relative + declared.slope * abs(float(x))) * exact
        off = error * 2.0 ** (int(exponent) - 23)
        assert off <= room + declared.absolute, (exponent, pattern, off, room)


@pytest.mark.parametrize(
    "vector", [v for v in VECTORS if v.operation == "encode"], ids=lambda v: v.id
)
def test_casts_agree_with_the_policy_on_record(vector: Vector) -> None:
    """On numbers; a NaN may keep its sign."""
    values, name = vector.inputs["values"], vector.arguments["name"]
    recorded = vector.peers.get("torch", vector.expected)["codes"]
    assert torch.equal(encode(values, name, saturate=False), vector.expected["codes"])
    policy, number = vector.arguments["policy"], ~values.isnan()
    own = codes(encode(values, name, saturate=policy == "saturating"))
    wrong = values[(own != codes(recorded)) & number]
    if policy is not None:
        assert not wrong.numel()
    else:
        # E8M0: the nearest of 2^-127 and 2^-126 is the former, below 1.5 2^-127.
        size = wrong.abs().double() * 2.0**127
        assert wrong.numel()
        assert bool(((size > 1.0) & (size < 1.5)).all())

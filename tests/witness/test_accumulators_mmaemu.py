"""FP8 accumulators, bit for bit, against mmaemu's model of H100 cuBLAS and of Ada."""

import mmaemu
import pytest
import torch
from mmaemu.model.chain import chain_gemm, dot

from oracle import bounds
from oracle.accumulators import accumulate
from oracle.formats import round_to
from oracle.numerics import ACCUMULATORS, Numerics
from oracle.trace import Tap

TYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
PAIRS = [("e4m3", "e4m3"), ("e4m3", "e5m2"), ("e5m2", "e4m3")]
UNITS = [("hopper", "qgmma_hopper"), ("ada", "qmma_ada")]


def codes(kind: str, rows: int, depth: int, element: str, seed: int) -> torch.Tensor:
    """FP8 values: any finite code, normal, of one sign, subnormal or mostly zero."""
    source = torch.Generator().manual_seed(seed)
    if kind == "any":
        drawn = torch.randint(
            0, 256, (rows, depth), generator=source, dtype=torch.uint8
        )
        finite = drawn.view(TYPES[element]).float().isfinite()
        return torch.where(finite, drawn, 0).view(TYPES[element])
    values = torch.randn(rows, depth, generator=source)
    if kind == "one_sign":
        values = values.abs()
    elif kind == "subnormal":
        values *= 2.0 ** (-8 if element == "e4m3" else -16)
    elif kind == "sparse":
        values *= torch.rand(rows, depth, generator=source) < 0.1
    return values.to(TYPES[element])


@pytest.mark.parametrize("kind", ["any", "normal", "one_sign", "subnormal", "sparse"])
@pytest.mark.parametrize("elements", PAIRS)
@pytest.mark.parametrize("preset, name", UNITS)
def test_accumulate_is_bit_equal_to_the_chain(preset, name, elements, kind):
    for depth in (16, 48, 128, 1056):
        a = codes(kind, 9, depth, elements[0], depth)
        b = codes(kind, 7, depth, elements[1], depth + 1)
        want = chain_gemm(
            a.view(torch.uint8), b.view(torch.uint8),
            fmt_a=elements[0], fmt_b=elements[1], preset=preset,
        )  # fmt: skip
        got = accumulate(a.double(), b.double(), ACCUMULATORS[name], formats=elements)
        assert torch.equal(got, want.double())


@pytest.mark.parametrize("preset, name", UNITS)
def test_accumulate_starts_from_a_running_sum(preset, name):
    a, b = codes("normal", 64, 96, "e4m3", 1), codes("normal", 64, 96, "e4m3", 2)
    start = torch.randn(64, generator=torch.Generator().manual_seed(3)) * 50
    want = dot(a, b, start, preset=preset)
    got = torch.cat([
        accumulate(
            a[i : i + 1].double(), b[i : i + 1].double(), ACCUMULATORS[name],
            formats=("e4m3", "e4m3"), start=start[i].double().reshape(1, 1),
        )
        for i in range(64)
    ])  # fmt: skip
    assert torch.equal(got[:, 0], want.double())


@pytest.mark.parametrize(
    "fast, name", [(True, "qgmma_hopper"), (False, "qgmma_hopper_promoted")]
)
def test_accumulate_is_bit_equal_to_cublas_on_h100(fast, name):
    a, b = codes("normal", 32, 2048, "e4m3", 4), codes("one_sign", 16, 2048, "e4m3", 5)
    want = mmaemu.accumulate(a, b, use_fast_accum=fast, profile="hopper", splitk=1)
    got = accumulate(
        a.double(), b.double(), ACCUMULATORS[name], formats=("e4m3", "e4m3")
    )
    assert torch.equal(got, want.double())


def test_bounds_hold_for_cublas_with_split_k_and_scales():
    """The whole of torch._scaled_mm: split along K, scaled, rounded to bf16."""
    a, b = codes("normal", 32, 4096, "e4m3", 6), codes("normal", 16, 4096, "e4m3", 7)
    scales = torch.tensor(0.37), torch.tensor(1.91)
    x, w = (
        Tap(t.double() * s.double(), least_normal=float(s) * 2.0**-6)
        for t, s in zip((a, b), scales, strict=True)
    )
    for splits in (1, 2, 4):
        got = mmaemu.scaled_mm(
            a, b.t(), *scales, out_dtype=torch.bfloat16, use_fast_accum=True,
            profile="hopper", splitk=(splits, "contiguous") if splits > 1 else 1,
        )  # fmt: skip
        numerics = Numerics(accumulate="qgmma_hopper", split_k=splits)
        tap = bounds.matmul(x, w, numerics)
        tap = bounds.rounded(bounds.rounded(tap, "fp32", numerics), "bf16", numerics)
        assert ((got.double() - tap.value).abs() <= tap.worst).all()
        assert torch.equal(got.double(), round_to(got.double(), "bf16"))

"""Element formats against ml_dtypes: every code, every bf16, strided fp32, f64 ties."""

import ml_dtypes
import numpy
import pytest
import torch

from oracle.formats import decode, encode, get, round_to

TYPES = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}
ALL = {
    **TYPES,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "int4": ml_dtypes.int4,
    "bf16": ml_dtypes.bfloat16,
    "fp16": numpy.float16,
}


def _patterns(bits: int) -> numpy.ndarray:
    return numpy.arange(2**bits, dtype=numpy.uint8 if bits <= 8 else numpy.uint16)


def _cast(values: torch.Tensor, name: str) -> torch.Tensor:
    """ml_dtypes' codes of values that it would not overflow on."""
    with numpy.errstate(all="ignore"):
        cast = values.numpy().astype(ALL[name])
    width = numpy.uint8 if cast.dtype.itemsize == 1 else numpy.uint16
    return torch.from_numpy(cast.view(width).astype(numpy.int64))


def _clipped(values: torch.Tensor, name: str) -> torch.Tensor:
    maximum = get(name).maximum
    return values.clamp(-maximum, maximum)


def _unsigned(codes: torch.Tensor, name: str) -> torch.Tensor:
    return codes.to(torch.int64) & (2 ** get(name).bits - 1)


@pytest.mark.parametrize("name", ALL)
def test_decode_every_code(name):
    patterns = _patterns(get(name).bits)
    with numpy.errstate(all="ignore"):
        theirs = patterns.view(ALL[name]).astype(numpy.float64)
    ours = decode(torch.from_numpy(patterns.astype(numpy.int32)), name)
    assert numpy.array_equal(ours.numpy(), theirs, equal_nan=True)
    assert numpy.array_equal(numpy.signbit(ours.numpy()), numpy.signbit(theirs)) or (
        # NaN and integers carry no sign of zero.
        name in ("int4", "e4m3", "e5m2", "bf16", "fp16", "e8m0")
        and (ours.signbit().numpy() == numpy.signbit(theirs))[ours == 0].all()
    )


@pytest.mark.parametrize("name", TYPES)
def test_encode_every_bf16(name):
    values = decode(torch.arange(2**16), "bf16")
    values = values[~values.isnan()]
    clipped = _clipped(values, name)
    theirs = _cast(clipped, name)
    for kind in (torch.float64, torch.float32, torch.bfloat16):
        assert torch.equal(_unsigned(encode(values.to(kind), name), name), theirs)
    kept = values[values.abs() <= get(name).maximum]
    unsaturated = encode(kept, name, saturate=False)
    assert torch.equal(_unsigned(unsaturated, name), _cast(kept, name))


@pytest.mark.parametrize("name", [*TYPES, "bf16", "fp16"])
def test_encode_strided_fp32(name):
    bits = torch.arange(-(2**31), 2**31, 2999, dtype=torch.int64).to(torch.int32)
    values = bits.view(torch.float32)
    values = values[~values.isnan()]
    if name in TYPES:
        assert torch.equal(
            _unsigned(encode(values, name), name), _cast(_clipped(values, name), name)
        )
    else:
        ours = encode(values, name, saturate=False)
        assert torch.equal(_unsigned(ours, name), _cast(values, name))


@pytest.mark.parametrize("name", [*TYPES, "fp16"])
def test_encode_beside_every_tie(name):
    """One ulp beside a tie: of fp32 (ml_dtypes goes through it), of fp64 for numpy."""
    kind = torch.float64 if name == "fp16" else torch.float32
    grid = decode(torch.arange(2 ** get(name).bits), name)
    grid = grid[grid.isfinite()].unique()
    ties = ((grid[1:] + grid[:-1]) / 2).to(kind)
    up, down = ties.new_tensor(torch.inf), ties.new_tensor(-torch.inf)
    near = torch.cat([ties, ties.nextafter(up), ties.nextafter(down), grid.to(kind)])
    assert torch.equal(_unsigned(encode(near, name), name), _cast(near, name))
    decoded = decode(encode(near, name), name)
    assert torch.equal(round_to(near.double(), name), decoded)


def test_round_to_bf16_every_tie_in_float64():
    """ml_dtypes goes from double to bf16 by way of float: compare beside float ties."""
    grid = decode(torch.arange(0x7F80), "bf16")
    ties = (grid[1:] + grid[:-1]) / 2
    ours = round_to(ties, "bf16")
    assert torch.equal(
        encode(ours, "bf16").to(torch.int64), _cast(ties.float(), "bf16")
    )
    up, down = ties.new_tensor(torch.inf), ties.new_tensor(-torch.inf)
    assert torch.equal(round_to(ties.nextafter(up), "bf16"), grid[1:])
    assert torch.equal(round_to(ties.nextafter(down), "bf16"), grid[:-1])


def test_encode_e8m0_positive():
    """Above 2^-126: below it ml_dtypes takes byte 0 for zero (see the vectors)."""
    exponents = torch.linspace(-126, 127.4, 20011, dtype=torch.float64)
    values = torch.exp2(exponents).to(torch.float32)
    ties = 1.5 * torch.exp2(torch.arange(-127, 127, dtype=torch.float64)).float()
    for saturate in (True, False):
        for x in (values[values < 1.5 * 2.0**127], ties):
            ours = encode(x, "e8m0", saturate=saturate)
            assert torch.equal(ours.to(torch.int64), _cast(x, "e8m0"))


@pytest.mark.parametrize("name", TYPES)
def test_encode_nonfinite(name):
    """Inf without saturation; NaN by class, since its bits differ among casts."""
    ends = torch.tensor([torch.inf, -torch.inf, torch.nan], dtype=torch.float64)
    ours = decode(encode(ends, name, saturate=False), name)
    with numpy.errstate(all="ignore"):
        theirs = ends.numpy().astype(TYPES[name]).astype(numpy.float64)
    if get(name).nan is None:
        # NaN becomes the largest value here (as NVIDIA converts it), -0 there.
        assert ours.tolist() == [*theirs[:2].tolist(), get(name).maximum]
        assert theirs[2] == 0
    else:
        assert numpy.array_equal(ours.numpy(), theirs, equal_nan=True)

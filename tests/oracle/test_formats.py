"""Element formats: laws, edges and refusals."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle.formats import FORMATS, decode, encode, get, round_to

ROUNDINGS = ("nearest_even", "half_away", "half_toward_zero", "toward_zero")
NARROW = [name for name, entry in FORMATS.items() if entry.bits <= 8]
FLOATS = [name for name, entry in FORMATS.items() if entry.kind == "float"]


def _values(name):
    """All finite values of a narrow format, ascending, as Python floats."""
    values = decode(torch.arange(2 ** get(name).bits), name)
    return values[values.isfinite()].unique().tolist()


def _by_search(x, grid, rounding):
    """The value of `grid` that x rounds to, found by looking at its neighbours."""
    if x >= grid[-1] or x <= grid[0]:
        return grid[-1] if x > 0 else grid[0]
    low = max(value for value in grid if value <= x)
    high = min(value for value in grid if value >= x)
    near, far = sorted((low, high), key=abs)
    if rounding == "toward_zero":
        return near
    if x - low != high - x:
        return low if x - low < high - x else high
    if rounding == "half_away":
        return far
    if rounding == "half_toward_zero":
        return near
    return low if grid.index(low) % 2 == grid.index(0.0) % 2 else high


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", [name for name in NARROW if name != "e8m0"])
def test_round_to_is_the_nearest_by_search(name, rounding):
    grid = _values(name)
    if name == "mxint8":
        grid = grid[1:]
    ties = [(a + b) / 2 for a, b in itertools.pairwise(grid)]
    beside = [math.nextafter(tie, end) for tie in ties for end in (-1e9, 1e9)]
    inside = [a + (b - a) * 0.3 for a, b in itertools.pairwise(grid)]
    points = [*grid, *ties, *beside, *inside, 2 * grid[0], 2 * grid[-1]]
    found = round_to(
        torch.tensor(points, dtype=torch.float64), name, rounding=rounding,
        saturate=True,
    )  # fmt: skip
    assert found.tolist() == [_by_search(x, grid, rounding) for x in points]


@pytest.mark.parametrize("name", FORMATS)
def test_encode_inverts_decode(name):
    entry = get(name)
    if entry.bits <= 16:
        codes = torch.arange(2**entry.bits)
    else:
        generator = torch.Generator().manual_seed(0)
        codes = torch.randint(-(2**31), 2**31, (5000,), generator=generator)
        codes = codes << (entry.bits - 32)
    values = decode(codes, name)
    kept = ~values.isnan() & (values >= entry.lowest)
    kept |= values.isinf()
    again = encode(values[kept], name, saturate=False).to(torch.int64)
    if entry.bits < 64:
        again &= 2**entry.bits - 1
        codes = codes & (2**entry.bits - 1)
    assert torch.equal(again, codes[kept])


@given(
    st.sampled_from(sorted(FORMATS)),
    st.sampled_from(ROUNDINGS),
    st.booleans(),
    st.lists(st.floats(width=64), min_size=1, max_size=8),
)
def test_round_to_equals_decode_of_encode(name, rounding, saturate, values):
    values = torch.tensor(values, dtype=torch.float64)
    direct = round_to(values, name, rounding=rounding, saturate=saturate)
    codes = encode(values, name, rounding, saturate)
    around = decode(codes, name)
    kept = ~values.isnan()
    assert torch.equal(direct[kept].isnan(), around[kept].isnan())
    kept &= ~direct.isnan()
    assert torch.equal(direct[kept], around[kept])
    if get(name).kind == "float":
        assert torch.equal(direct[kept].signbit(), around[kept].signbit())


@given(
    st.sampled_from(sorted(set(FORMATS) - {"e8m0"})),
    st.sampled_from(ROUNDINGS),
    st.lists(st.floats(allow_nan=False, width=64), min_size=2, max_size=8),
)
def test_round_to_is_monotone_and_idempotent(name, rounding, values):
    values = torch.tensor(sorted(values), dtype=torch.float64)
    once = round_to(values, name, rounding=rounding, saturate=True)
    assert (once.diff().nan_to_num() >= 0).all()
    assert torch.equal(once, round_to(once, name, rounding=rounding, saturate=True))


@pytest.mark.parametrize("name", [name for name in FLOATS if name != "fp64"])
def test_round_to_past_the_largest(name):
    entry = get(name)
    step = 2.0 ** (entry.maximum_exponent - entry.mantissa)
    tie = torch.tensor([entry.maximum + step / 2], dtype=torch.float64)
    below = tie.nextafter(torch.zeros(()).double())
    assert float(round_to(below, name)) == entry.maximum
    if entry.infinity is not None:
        assert float(round_to(tie, name)) == math.inf
        assert float(round_to(tie, name, saturate=True)) == entry.maximum
        assert float(round_to(tie, name, rounding="toward_zero")) == entry.maximum
        assert float(round_to(-tie, name, rounding="half_away")) == -math.inf
    elif entry.nan is not None:
        above = tie.nextafter(tie * 2)
        assert float(round_to(tie, name)) == entry.maximum
        assert round_to(above, name).isnan()
        assert float(round_to(above, name, saturate=True)) == entry.maximum
    else:
        assert float(round_to(tie * 4, name)) == entry.maximum
    assert round_to(torch.full((1,), math.nan).double(), name).isnan()


@pytest.mark.parametrize("name", FLOATS)
def test_round_to_flushes_subnormals(name):
    least = get(name).least_normal
    quantum = get(name).quantum
    x = torch.tensor(
        [least, -least, least - quantum, -quantum, quantum / 4, 0.0, -0.0],
        dtype=torch.float64,
    )
    flushed = round_to(x, name, subnormals="flush")
    assert flushed.tolist() == [least, -least, 0, 0, 0, 0, 0]
    assert flushed.signbit().tolist() == x.signbit().tolist()
    kept = round_to(x, name)
    assert kept[:4].tolist() == x[:4].tolist()


def test_round_to_leaves_its_argument_alone():
    x = torch.tensor([1.3, 1e300, -5.0], dtype=torch.float64)
    before = x.clone()
    for name in FORMATS:
        round_to(x, name)
        encode(x, name)
    assert torch.equal(x, before)


def test_round_to_strides_and_empty():
    x = torch.arange(24, dtype=torch.float64).reshape(4, 6).t()[::2] / 7
    assert torch.equal(round_to(x, "e4m3"), round_to(x.contiguous(), "e4m3"))
    assert round_to(torch.empty(0, 3).double(), "bf16").shape == (0, 3)
    assert encode(torch.empty(0), "e2m1").dtype == torch.uint8
    assert decode(torch.empty(0, dtype=torch.uint8), "e2m1").shape == (0,)


@pytest.mark.parametrize(
    "name,storage",
    [
        ("e2m1", torch.uint8), ("e4m3", torch.uint8), ("e8m0", torch.uint8),
        ("int8", torch.int8), ("int4", torch.int8), ("mxint8", torch.int8),
        ("bf16", torch.int16), ("fp32", torch.int32), ("fp64", torch.int64),
    ],
)  # fmt: skip
def test_encode_storage_types(name, storage):
    codes = encode(torch.tensor([-1.0, 0.5]), name)
    assert codes.dtype == storage
    assert decode(codes, name).dtype == torch.float64


def test_encode_same_from_every_source_type():
    x = decode(torch.arange(0, 2**16, 7), "bf16")
    x = x[~x.isnan()]
    for name in NARROW:
        want = encode(x, name)
        for dtype in (torch.float32, torch.bfloat16):
            assert torch.equal(encode(x.to(dtype), name), want)


def test_decode_integers_from_unsigned_nibbles():
    codes = torch.arange(16, dtype=torch.uint8)
    assert decode(codes, "int4").tolist() == [*range(8), *range(-8, 0)]
    assert decode(codes.to(torch.int8) - 8, "int4").tolist() == list(range(-8, 8))


@pytest.mark.parametrize(
    "call,error,words",
    [
        (
            lambda: get("e4m4"),
            ValueError,
            "unknown element format 'e4m4'.*did you mean",
        ),
        (
            lambda: get("xyz"),
            ValueError,
            "unknown element format 'xyz': known are e2m1",
        ),
        (
            lambda: round_to(torch.ones(2), "bf16"),
            TypeError,
            "values are torch.float32; convert them to float64",
        ),
        (
            lambda: round_to(torch.ones(2).double(), "bf16", rounding="up"),
            ValueError,
            "rounding='up' is unknown; use one of 'nearest_even'",
        ),
        (
            lambda: round_to(torch.ones(2).double(), "bf16", subnormals="drop"),
            ValueError,
            "subnormals='drop' is unknown",
        ),
        (
            lambda: encode(torch.ones(2, dtype=torch.int64), "e4m3"),
            TypeError,
            "values are torch.int64; give float64",
        ),
        (
            lambda: decode(torch.ones(2), "e4m3"),
            TypeError,
            "codes of e4m3 are torch.float32; view them as an integer type",
        ),
        (
            lambda: decode(torch.tensor([3, 16]), "e2m1"),
            ValueError,
            "codes span 3..16; e2m1 has 4 bits.*unpack packed bytes first",
        ),
        (
            lambda: decode(torch.tensor([-9, 3]), "int4"),
            ValueError,
            "codes span -9..3; int4 has 4 bits",
        ),
    ],
)
def test_formats_refuse(call, error, words):
    with pytest.raises(error, match=words):
        call()

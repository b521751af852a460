"""Element formats against gfloat: decoding, and rounding in every shared mode."""

import gfloat
import gfloat.formats
import numpy
import pytest
import torch

from oracle.formats import decode, encode, get, round_to

INFOS = {
    "e2m1": gfloat.formats.format_info_ocp_e2m1,
    "e2m3": gfloat.formats.format_info_ocp_e2m3,
    "e3m2": gfloat.formats.format_info_ocp_e3m2,
    "e4m3": gfloat.formats.format_info_ocp_e4m3,
    "e5m2": gfloat.formats.format_info_ocp_e5m2,
    "e8m0": gfloat.formats.format_info_ocp_e8m0,
    "mxint8": gfloat.formats.format_info_ocp_int8,
    "bf16": gfloat.formats.format_info_bfloat16,
    "fp16": gfloat.formats.format_info_binary16,
    "fp32": gfloat.formats.format_info_binary32,
}
MODES = {
    "nearest_even": gfloat.RoundMode.TiesToEven,
    "half_away": gfloat.RoundMode.TiesToAway,
    "toward_zero": gfloat.RoundMode.TowardZero,
}
FLOATS = [name for name in INFOS if get(name).kind == "float"]


@pytest.mark.parametrize("name", [name for name in INFOS if get(name).bits <= 8])
def test_decode_every_code(name):
    codes = numpy.arange(2 ** get(name).bits)
    theirs = [gfloat.decode_float(INFOS[name], int(code)).fval for code in codes]
    ours = decode(torch.from_numpy(codes), name).numpy()
    assert numpy.array_equal(ours, theirs, equal_nan=True)
    assert (numpy.signbit(ours) == numpy.signbit(theirs))[ours == 0].all()


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_decode_every_wide_code(name):
    codes = numpy.arange(2**16)
    theirs = gfloat.decode_ndarray(INFOS[name], codes)
    ours = decode(torch.from_numpy(codes), name).numpy()
    assert numpy.array_equal(ours, theirs, equal_nan=True)


def _hard_values(name):
    """Values, ties, their neighbours, powers of two and the ends of the range."""
    entry = get(name)
    if entry.bits <= 8:
        grid = decode(torch.arange(2**entry.bits), name)
        grid = grid[grid.isfinite()].unique()
    else:
        generator = torch.Generator().manual_seed(entry.bits)
        bits = torch.randint(0, 2**31, (4000,), generator=generator)
        low = entry.bits - 1
        grid = decode(bits & (2**low - 1), name)
        grid = torch.cat([grid[grid.isfinite()], torch.zeros(1).double()]).unique()
        step = decode(encode(grid, name).to(torch.int64) + 1, name)
        grid = torch.cat([grid, step[step.isfinite()]]).unique()
    ties = (grid[1:] + grid[:-1]) / 2
    powers = torch.exp2(torch.arange(-160, 160, dtype=torch.float64))
    past = entry.maximum * torch.tensor([1.0, 1.01, 1.0625, 1.07, 1.5, 4.0, 1e6])
    base = torch.cat([grid, ties, powers, past.double()])
    up, down = base.new_tensor(torch.inf), base.new_tensor(-torch.inf)
    both = torch.cat([base, base.nextafter(up), base.nextafter(down)])
    return torch.cat([both, -both])


@pytest.mark.parametrize("rounding", MODES)
@pytest.mark.parametrize("name", FLOATS)
def test_round_to_matches(name, rounding):
    values = _hard_values(name)
    for saturate in (True, False):
        no_overflow = get(name).infinity is None and get(name).nan is None
        with numpy.errstate(over="ignore"):
            theirs = gfloat.round_ndarray(
                INFOS[name], values.numpy(), MODES[rounding], saturate or no_overflow
            )
        ours = round_to(values, name, rounding=rounding, saturate=saturate).numpy()
        assert numpy.array_equal(ours, theirs, equal_nan=True)
        assert (numpy.signbit(ours) == numpy.signbit(theirs))[ours == 0].all()


@pytest.mark.parametrize("rounding", MODES)
def test_round_to_mxint8_matches(rounding):
    """gfloat may use -2; here encoding stays symmetric, as the largest value does."""
    values = _hard_values("mxint8")
    theirs = gfloat.round_ndarray(
        INFOS["mxint8"], values.numpy(), MODES[rounding], sat=True
    )
    ours = round_to(values, "mxint8", rounding=rounding, saturate=True).numpy()
    assert numpy.array_equal(ours, numpy.maximum(theirs, -127 / 64))


@pytest.mark.parametrize("name", FLOATS)
def test_encode_representable_values(name):
    values = round_to(_hard_values(name), name, saturate=True)
    theirs = gfloat.encode_ndarray(INFOS[name], values.numpy()).astype(numpy.int64)
    ours = encode(values, name).to(torch.int64) & (2 ** get(name).bits - 1)
    assert numpy.array_equal(ours.numpy(), theirs)

"""Where single bytes go, by closed formulas written element by element."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle.layouts import get
from oracle.scalar import layouts as scalar

#: From (n, k) of a matrix of (rows, columns) to the place in what is stored.
Place = Callable[[int, int, int, int], tuple[int, ...]]


def _rows_of(run: int, up_first: bool) -> Place:
    def place(n: int, k: int, rows: int, columns: int) -> tuple[int, ...]:
        half = rows // 2
        width = run or half
        is_up, i = divmod(n, half)
        second = is_up != up_first
        return i // width * 2 * width + second * width + i % width, k

    return place


def _sm90_scales(n: int, k: int, rows: int, columns: int) -> tuple[int, ...]:
    return n // 64, k // 4, n % 16, n % 64 // 16 * 4 + k % 4


def _hopper_scales(n: int, k: int, rows: int, columns: int) -> tuple[int, ...]:
    warps = 8
    r = n % (32 * warps)
    row = n // (32 * warps) * warps + r % (16 * warps) // 16
    column = k // 2 * 64 + r // (16 * warps) * 32 + r % 8 * 4 + k % 2 * 2
    return row, column + r % 16 // 8


def _marlin_scales(n: int, k: int, rows: int, columns: int) -> tuple[int, ...]:
    grouped = n % 8 * 8 + n % 64 // 8  # the 8 x 8 of a run of 64, transposed
    swapped = {0: 0, 1: 2, 2: 1, 3: 3}[grouped % 4]
    return k, n // 64 * 64 + grouped // 4 * 4 + swapped


def _marlin_bias(n: int, k: int, rows: int, columns: int) -> tuple[int, ...]:
    a, b, i = k % 32 // 8, k % 2, k % 8 // 2
    return n, k // 32 * 32 + 8 * i + 2 * a + b


def _trtllm(n: int, k: int, rows: int, columns: int) -> tuple[int, ...]:
    return n // 32 * 32 + n % 4 * 8 + n % 32 // 4, k


def _block_major(n: int, k: int, rows: int, columns: int) -> tuple[int, ...]:
    return k // 128, n, k % 128


PLACES: dict[str, Place] = {
    "gate_up": _rows_of(0, False),
    "up_gate": _rows_of(0, True),
    "interleaved": _rows_of(1, False),
    "interleaved_up_gate": _rows_of(1, True),
    "groups_8": _rows_of(8, False),
    "groups_64": _rows_of(64, True),
    "scales_128x4": lambda n, k, r, c: (scalar.offset_128x4(n, k, c),),
    "scales_8x4": lambda n, k, r, c: (scalar.offset_8x4(n, k, c),),
    "sm90_scales": _sm90_scales,
    "hopper_scales": _hopper_scales,
    "marlin_scales": _marlin_scales,
    "marlin_bias": _marlin_bias,
    "trtllm_gen_rows": _trtllm,
    "trtllm_gen_block_major": _block_major,
}


@pytest.mark.parametrize("name", PLACES)
@given(data=st.data())
def test_layouts_place_a_byte_where_the_formula_says(
    name: str, data: st.DataObject
) -> None:
    layout = get(name)
    rows = layout.multiple[0] * data.draw(st.integers(1, 5), label="row multiples")
    columns = layout.multiple[1] * data.draw(st.integers(1, 9), label="columns")
    n = data.draw(st.integers(0, rows - 1), label="n")
    k = data.draw(st.integers(0, columns - 1), label="k")
    x = torch.zeros(rows, columns, dtype=torch.uint8)
    x[n, k] = 201
    y = layout.forward(x)
    assert y.nonzero().tolist() == [list(PLACES[name](n, k, rows, columns))]
    assert int(y.max()) == 201


def _hopper_byte(n: int, b: int) -> tuple[int, int]:
    row = n // 16 * 4 + n % 8 // 2
    column = (b // 32 * 2 + n % 2) * 64 + b % 4 * 16 + b // 8 % 4 * 4 + b // 4 % 2 * 2
    return row, column + n // 8 % 2


@given(st.integers(0, 511), st.integers(0, 127), st.integers(1, 255))
def test_hopper_values_place_a_byte_where_the_formula_says(
    n: int, b: int, value: int
) -> None:
    x = torch.zeros(512, 128, dtype=torch.uint8)
    x[n, b] = value
    y = get("hopper_values").forward(x)
    row, column = _hopper_byte(n, b)
    word = scalar.sm90_word(value << 8 * (column % 4))
    want = [word >> 8 * i & 255 for i in range(4)]
    first = column // 4 * 4
    assert y[row, first : first + 4].tolist() == want
    assert int(y.count_nonzero()) == sum(octet > 0 for octet in want)


@given(st.integers(0, 2**31), st.integers(1, 2), st.integers(1, 2))
def test_sm90_fp4_weights_are_the_scalar_oracles(seed: int, r: int, c: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (16 * r, 32 * c), generator=generator, dtype=torch.uint8)
    assert get("sm90_fp4").forward(x).tolist() == scalar.sm90_weights(x.tolist())


def _int4_unit(r: int, unit: int) -> tuple[int, int]:
    """Row and 16-bit unit of the unit at row r: pairs of rows r, r + 8 side by side."""
    part, lane = divmod(unit, 16)
    base = r // 16 * 16 + r % 8
    row = base + lane % 8 // 4 * 8
    return row, part * 16 + lane // 8 * 8 + lane % 4 * 2 + r % 16 // 8


def _signs_for_fp8(word: int) -> int:
    out = word & 0x77777777
    for nibble, target in enumerate((7, 15, 23, 31, 3, 11, 19, 27)):
        out |= (word >> (4 * nibble + 3) & 1) << target
    return out


@pytest.mark.parametrize("kind", ["int4", "fp4_fp8"])
@given(st.integers(0, 31), st.integers(0, 31), st.integers(1, 0xFFFF))
def test_sm90_units_go_where_the_formula_says(
    kind: str, r: int, unit: int, value: int
) -> None:
    x = torch.zeros(32, 64, dtype=torch.uint8)
    x[r, 2 * unit] = value & 255
    x[r, 2 * unit + 1] = value >> 8
    y = get(f"sm90_{kind}").forward(x)
    row, place = _int4_unit(r, unit)
    word = value << 16 * (place % 2)
    word = word if kind == "int4" else _signs_for_fp8(word)
    want = torch.zeros_like(x)
    for i in range(4):
        want[row, place // 2 * 4 + i] = word >> 8 * i & 255
    assert torch.equal(y, want)


@pytest.mark.parametrize("bits", [16, 8])
@given(st.integers(0, 127), st.integers(0, 63), st.integers(1, 15))
def test_marlin_weights_place_a_nibble_where_the_formula_says(
    bits: int, n: int, k: int, code: int
) -> None:
    x = torch.zeros(128, 64, dtype=torch.uint8)
    x[n, k] = code
    y = get("marlin_weights").forward(x, activation_bits=bits)
    if bits == 16:
        r, c = k % 16, n % 16
        slot = (0, 4, 1, 5, 2, 6, 3, 7)[4 * (c // 8) + 2 * (r // 8) + r % 2]
        lane = c % 8 * 4 + r % 8 // 2
        row, column = k // 16, n // 64 * 128 + lane * 4 + n % 64 // 16
    else:
        r, c = k % 32, n % 16
        slot = (0, 2, 4, 6, 1, 3, 5, 7)[r // 16 * 4 + r % 4]
        lane = c % 8 * 4 + r % 16 // 4
        word = (k // 32 * 4 + n // 32) * 128 + lane * 4 + n % 32 // 16 * 2 + c // 8
        row, column = divmod(word, 256)
    want = torch.zeros(4, 256, dtype=torch.int64)
    want[row, column] = code << 4 * slot
    assert torch.equal(y.to(torch.int64) & 0xFFFFFFFF, want)


@given(st.integers(0, 127), st.integers(0, 6), st.integers(1, 255), st.booleans())
def test_deep_gemm_packs_a_scale_where_the_formula_says(
    m: int, k: int, value: int, utccp: bool
) -> None:
    x = torch.zeros(128, 7, dtype=torch.uint8)
    x[m, k] = value
    name = "deep_gemm_utccp_scales" if utccp else "deep_gemm_sm100_scales"
    y = get(name).forward(x)
    octets = y.flatten().view(torch.uint8)
    row = m % 32 * 4 + m // 32 if utccp else m
    assert octets.nonzero().tolist() == [[k // 4 * 4 * 128 + row * 4 + k % 4]]
    assert int(octets.max()) == value


@given(st.integers(2, 40), st.integers(2, 9), st.data())
def test_deep_gemm_sm90_scales_are_strided_as_tma_wants(
    rows: int, columns: int, data: st.DataObject
) -> None:
    m = data.draw(st.integers(0, rows - 1))
    k = data.draw(st.integers(0, columns - 1))
    x = torch.zeros(rows, columns)
    x[m, k] = 3.5
    y = get("deep_gemm_sm90_scales").forward(x)
    aligned = -(-rows // 4) * 4
    assert y.flatten().nonzero().tolist() == [[k * aligned + m]]
    view = y.mT[:rows]
    assert torch.equal(view, x)
    assert view.stride() == (1, aligned)


@given(st.integers(0, 15), st.integers(0, 23), st.integers(1, 15))
def test_int4_containers_place_a_nibble_where_the_formula_says(
    n: int, k: int, code: int
) -> None:
    x = torch.zeros(16, 24, dtype=torch.uint8)
    x[n, k] = code
    awq_slot = {0: 0, 2: 1, 4: 2, 6: 3, 1: 4, 3: 5, 5: 6, 7: 7}[n % 8]
    wants = {
        "int4_compressed_tensors": ((16, 3), (n, k // 8), k % 8),
        "int4_gptq": ((3, 16), (k // 8, n), k % 8),
        "int4_awq": ((24, 2), (k, n // 8), awq_slot),
    }
    for name, (shape, place, slot) in wants.items():
        want = torch.zeros(shape, dtype=torch.int64)
        want[place] = code << 4 * slot
        assert torch.equal(get(name).forward(x).to(torch.int64) & 0xFFFFFFFF, want)


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), min_size=1))
def test_nibbles_are_the_scalar_oracles(pairs: list[tuple[int, int]]) -> None:
    codes = [code for pair in pairs for code in pair]
    x = torch.tensor(codes, dtype=torch.uint8)
    packed = get("nibbles_low_first").forward(x)
    assert packed.tolist() == scalar.pack_nibbles(codes)
    swapped = [octet >> 4 | (octet & 15) << 4 for octet in packed.tolist()]
    assert get("nibbles_high_first").forward(x).tolist() == swapped

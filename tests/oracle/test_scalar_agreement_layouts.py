"""The first oracle's layouts put every byte where the second one's formulas say."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle.layouts import nibbles, scale_tiles, sm90_mixed
from oracle.scalar import layouts as scalar

octets = st.integers(0, 255)


def drawn(data, rows, columns):
    """A matrix of bytes, different in every place for small sizes."""
    start, step = data.draw(octets), data.draw(st.sampled_from([1, 3, 37, 101]))
    flat = torch.arange(rows * columns) * step + start
    return (flat % 256).to(torch.uint8).reshape(rows, columns)


@settings(derandomize=True, max_examples=10)
@given(data=st.data(), rows=st.integers(1, 270), columns=st.integers(1, 11))
def test_scalar_layouts_agree_on_scale_tiles(data, rows, columns):
    scales = drawn(data, rows, columns)
    for swizzle, offset in (
        (scale_tiles.swizzle_128x4, scalar.offset_128x4),
        (scale_tiles.swizzle_8x4, scalar.offset_8x4),
    ):
        flat = swizzle(scales, pad=255).flatten().tolist()
        places = {offset(m, k, columns) for m in range(rows) for k in range(columns)}
        assert [flat[place] for place in set(range(len(flat))) - places] == [255] * (
            len(flat) - rows * columns
        )
        for m in range(rows):
            for k in range(columns):
                assert flat[offset(m, k, columns)] == scales[m, k]


@settings(derandomize=True)
@given(
    st.lists(st.integers(0, 15), min_size=1, max_size=20).filter(
        lambda x: not len(x) % 2
    )
)
def test_scalar_layouts_agree_on_nibbles(codes):
    packed = nibbles.pack(torch.tensor(codes, dtype=torch.uint8))
    assert packed.tolist() == scalar.pack_nibbles(codes)
    assert nibbles.unpack(packed).tolist() == scalar.unpack_nibbles(packed.tolist())


@settings(derandomize=True, max_examples=10)
@given(data=st.data(), groups=st.integers(1, 2), parts=st.integers(1, 2))
def test_scalar_layouts_agree_on_the_sm90_interleave(data, groups, parts):
    packed = drawn(data, 16 * groups, 32 * parts)
    got = sm90_mixed.interleave_weights(packed[None])[0]
    assert got.tolist() == scalar.sm90_weights(packed.tolist())


@settings(derandomize=True, max_examples=10)
@given(data=st.data(), rows=st.integers(1, 2), columns=st.integers(1, 2))
def test_scalar_layouts_agree_on_sm90_scales(data, rows, columns):
    scales = drawn(data, 64 * rows, 4 * columns)
    folded = sm90_mixed.interleave_scales(scales[None])[0]
    for r in range(len(scales)):
        for k in range(scales.shape[1]):
            assert folded[scalar.sm90_scale_position(r, k)] == scales[r, k]

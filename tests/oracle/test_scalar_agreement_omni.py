"""The two oracles choose the same product keys and move the same gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import omni as first
from oracle.numerics import PRESETS
from oracle.scalar import omni as second
from oracle.scalar.interval import FLOAT64, precision

REFERENCE = PRESETS["reference"].but(output="fp64")
TYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}
#: Values that tie, that round away, and ordinary ones.
logits = st.sampled_from([0.0, -0.0, 1.0, -1.0, 256.0, 2.0**-9]) | st.floats(-9, 9)


@st.composite
def axes(draw, dtype):
    """Row and column logits of one token, in `dtype`, and k."""
    n = draw(st.integers(1, 6))
    x, y = (
        torch.tensor(draw(st.lists(logits, min_size=n, max_size=n)), dtype=dtype)
        for _ in "xy"
    )
    return x, y, draw(st.integers(1, n * n))


@pytest.mark.parametrize(
    ("dtype", "sum_type"), [("bf16", "bf16"), ("bf16", "fp32"), ("fp32", "fp32")]
)
@settings(derandomize=True)
@given(data=st.data())
def test_scalar_omni_routes_agree(dtype, sum_type, data):
    x, y, k = data.draw(axes(TYPES[dtype]))
    got = first.omni_route(x[None], y[None], k, sum_type=sum_type)
    scores, ids = second.route(x.tolist(), y.tolist(), k, sum_type)
    assert got.ids[0].tolist() == ids
    plain = torch.tensor([float(s) for s in scores], dtype=TYPES[dtype])
    assert got.scores[0].tolist() == plain.tolist()


@settings(derandomize=True)
@given(data=st.data(), n=st.integers(1, 5), k=st.integers(1, 6))
def test_scalar_omni_gradients_agree(data, n, k):
    """Sums of dyadic gradients are exact in any order."""
    ids = data.draw(st.lists(st.integers(0, n * n - 1), min_size=k, max_size=k))
    slots = data.draw(st.lists(st.integers(-64, 64), min_size=k, max_size=k))
    d_scores = torch.tensor([slots], dtype=torch.float64) / 8
    taps = first.omni_route_backward(d_scores, torch.tensor([ids]), n, REFERENCE)
    for tap, want in zip(
        taps, second.route_backward([s / 8 for s in slots], ids, n), strict=True
    ):
        assert tap.value[0].tolist() == want


@settings(derandomize=True, max_examples=25)
@given(data=st.data(), seed=st.integers(0, 2**32), hidden=st.integers(1, 6))
def test_scalar_omni_experts_agree(data, seed, hidden):
    """Output and all four gradients of one token, with empty and repeated slots."""
    generator = torch.Generator().manual_seed(seed)
    x, d_out, up, down = (
        torch.randn(size, hidden, generator=generator, dtype=torch.float64)
        for size in (1, 1, 4, 4)
    )
    ids = data.draw(st.lists(st.integers(-1, 3), min_size=1, max_size=4))
    weights = torch.randn(1, len(ids), generator=generator, dtype=torch.float64)
    slots = torch.tensor([ids])
    got = first.omni_experts(x, slots, weights, up, down, REFERENCE)
    grads = first.omni_experts_backward(d_out, x, slots, weights, up, down, REFERENCE)
    token = x[0].tolist()
    own = (ids, weights[0].tolist(), up.tolist(), down.tolist())
    with precision(FLOAT64):
        regions = [second.experts(token, *own)]
        wanted = second.experts_backward(d_out[0].tolist(), token, *own)
    pairs = [(got, regions), (grads.x, [wanted.x]), (grads.weights, [wanted.weights])]
    pairs += [(grads.up, wanted.up), (grads.down, wanted.down)]
    for tap, rows in pairs:
        for row, region in zip(tap.value.tolist(), rows, strict=True):
            assert all(v in r for v, r in zip(row, region, strict=True))

"""Drawn cases: they parse back, build, judge right, and shrink to the simplest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

from oracle.spec import Layer
from refmoe.case import CHOICES, Case, elements
from refmoe.fitting import fitted, within
from refmoe.gallery.plain import Plain
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.problem import build
from refmoe.strategies import MODELS, cases
from refmoe.verdict import Kind
from refmoe.verify import Verifier

PLAIN = port_of(Plain())
LARGEST = 1 << 15
FINE = (Kind.BIT_EQUAL, Kind.WITHIN, Kind.AMBIGUOUS, Kind.UNDECIDED)
SEARCH = settings(max_examples=1000, database=None, derandomize=True)


@given(case=cases(PLAIN, max_elements=LARGEST))
def test_cases_parse_back_build_and_the_plain_port_is_right(case: Case) -> None:
    assert parse(str(case)) == case
    record = Verifier().check(PLAIN, case)
    if record.kind is Kind.REFUSED:
        # Codes times scales may pass what bf16 holds, which most formats do not take.
        assert not build(case).inputs["x"].isfinite().all()
        return
    assert record.kind in FINE, (record.case, record.judgement, record.log)


@given(case=cases(max_elements=1 << 18))
def test_cases_of_all_ops_are_no_larger_than_asked(case: Case) -> None:
    assert elements(case) <= 1 << 18
    assert fitted(case) == case


@pytest.mark.parametrize("op", ["route", "experts", "grouped_quantize", "combine"])
def test_cases_shrink_to_the_simplest_of_each_op(op: str) -> None:
    """Catches a dimension whose first choice is not its default."""
    case = find(cases(ops=(op,)), lambda case: True, settings=SEARCH)
    plain = Case(op, T=case.T, H=case.H, I=case.I, E=case.E, k=case.k)
    assert case == plain.but(format=case.format)
    sizes = [size for size in (case.H, case.I, case.k) if size is not None]
    assert case.T <= 1
    assert max(sizes) <= 32


DIMENSIONS: dict[str, Callable[[Case], bool]] = {
    **{f"memory={word}": lambda case, w=word: case.memory == w
       for word in CHOICES["memory"]},
    **{f"slots={word}": lambda case, w=word: case.slots == w
       for word in CHOICES["slots"]},
    **{f"load={word}": lambda case, w=word: case.load == w for word in CHOICES["load"]},
    "constants": lambda case: case.constants == "own",
    "logits": lambda case: case.logits_dtype == "fp16",
    "bias": lambda case: case.bias_dtype == "bf16",
    "local": lambda case: case.local is not None and case.local[0] != "0",
    "shard": lambda case: case.shard is not None and case.shard[0] != "0",
    "rows": lambda case: case.rows is not None,
    "model": lambda case: case.model == MODELS[-1],
    "E above 256": lambda case: (case.E or 0) > 256,
    "k above 8": lambda case: (case.k or 0) > 8,
    "k = E": lambda case: case.k == case.E != 1,
    "T = 65": lambda case: case.T == 65,
    "no tokens": lambda case: case.T == 0,
    "I above H / 2": lambda case: 2 * (case.I or 0) > (case.H or 10**9),
}  # fmt: skip


def test_cases_reach_every_dimension() -> None:
    """Catches a dimension that is never drawn, or so rarely that nobody meets it."""
    drawn: list[Case] = []

    @settings(max_examples=600, database=None, derandomize=True)
    @given(case=cases())
    def collect(case: Case) -> None:
        drawn.append(case)

    collect()
    missing = [name for name, shown in DIMENSIONS.items() if not any(map(shown, drawn))]
    assert not missing


# ---- shrinking a seeded bug


def wrong(port: Plain) -> Callable[[Case], bool]:
    loaded = port_of(port)
    return lambda case: Verifier().check(loaded, case).kind.failed


class LastExpertLost(Plain):
    """The last expert gets no rows once there are five."""

    def permute(
        self, ids: torch.Tensor, layer: Layer, *, local: tuple[int, int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if layer.experts >= 5:
            ids = ids.masked_fill(ids == layer.experts - 1, -1)
        return super().permute(ids, layer, local=local)


class StridesIgnored(Plain):
    """A view of three rows or more is read as if it were dense."""

    def combine(
        self, down: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        if len(down) >= 3 and not down.is_contiguous():
            down = down.as_strided(down.shape, (down.shape[1], 1))
        return super().combine(down, rows, weights)


def test_shrinking_reaches_the_fewest_tokens_and_experts() -> None:
    found = find(
        cases(ops=("permute",), max_elements=LARGEST), wrong(LastExpertLost()),
        settings=SEARCH,
    )  # fmt: skip
    assert found.E == 5
    assert 1 <= found.T * (found.k or 0) <= 5
    assert (found.load, found.slots, found.memory) == ("uniform", "all", "contiguous")


def test_shrinking_keeps_the_dimension_that_the_bug_needs() -> None:
    found = find(
        cases(ops=("combine",), regimes=("randn",), max_elements=LARGEST),
        wrong(StridesIgnored()), settings=SEARCH,
    )  # fmt: skip
    assert found.memory == "strided"
    assert found.T * (found.k or 0) <= 4
    assert (found.load, found.model) == ("uniform", None)


# ---- ports and bounds


@given(data=st.data())
def test_cases_lie_inside_structured_support(data: st.DataObject) -> None:
    supports = {
        "H": (64, 256), "multiples": {"H": 64, "I": 32}, "T": (1, 32),
        "weights": ("bf16", "mxfp4"), "activations": ("bf16",), "dtypes": ("bf16",),
        "memory": ("contiguous",), "slots": ("all",), "models": ("mixtral-8x7b",),
        "logits_dtype": ("fp32",), "bias_dtype": (), "constants": ("layer",),
        "local": False,
    }  # fmt: skip
    named = {"experts": Plain().experts, "device": "cpu", "supports": supports}
    port = port_of(named)
    case = data.draw(cases(port, max_elements=1 << 20))
    assert case.op == "experts"
    assert case.model == "mixtral-8x7b"
    assert port.unsupported(case) is None, case


@given(data=st.data())
def test_cases_are_of_the_formats_that_a_port_names(data: st.DataObject) -> None:
    """Catches a hunt on a port of rare formats that runs next to nothing."""
    supports = {
        "formats": ("mxint8",), "weights": ("mxfp8_e4m3:rceil",),
        "activations": ("mxfp8_e4m3:cublas_te",),
    }  # fmt: skip
    ops = {"experts": Plain().experts, "quantize": Plain().quantize}
    port = port_of({**ops, "device": "cpu", "supports": supports})
    case = data.draw(cases(port, max_elements=1 << 20))
    assert port.unsupported(case) is None, case


def test_cases_of_unknown_or_absent_ops_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'permute'"):
        cases(ops=("permut",))
    with pytest.raises(ValueError, match="the port has none of moe; it has route"):
        cases(port_of({"route": Plain().route}), ops=("moe",))


def test_within_halves_sizes_and_keeps_the_case_valid() -> None:
    case = parse(
        "moe model=deepseek-v3 T=8192 H=512 I=512 E=64 k=8 slots=all", largest=None
    )
    small = within(case, 1 << 18)
    assert elements(small) <= 1 << 18
    build(small)

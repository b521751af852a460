"""Structured support: precise reasons, errors, and cases moved into it."""

from __future__ import annotations

import re
from typing import Any

import pytest

import refmoe
from oracle.numerics import PRESETS
from refmoe.gallery.plain import Plain
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.plan import DEFAULT_MODELS, Cell
from refmoe.supports import Supports, supports_of
from refmoe.verdict import Kind
from refmoe.verify import Verifier, schedule

PLAIN = Plain()

CASE = parse(
    "moe T=17 H=96 I=32 E=8 k=2 weights=mxfp4 memory=strided logits_dtype=bf16 "
    "arch=sm_90"
)

REASONS: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"T": (32, None)}, "T=17 is below 32"),
    ({"k": (None, 1)}, "k=2 is above 1"),
    ({"multiples": {"H": 64}}, "H=96 is no multiple of 64"),
    ({"weights": ("bf16", "nvfp4")}, "weights=mxfp4; there is bf16, nvfp4"),
    ({"activations": ("mxfp8_e4m3",)}, "activations=bf16; there is mxfp8_e4m3"),
    ({"dtypes": ("fp16",)}, "dtypes=bf16; there is fp16"),
    ({"memory": ("contiguous",)}, "memory=strided; there is contiguous"),
    ({"logits_dtype": ("fp32",)}, "logits_dtype=bf16; there is fp32"),
    ({"archs": ("sm_80",)}, "archs=sm_90; there is sm_80"),
    ({"models": ("mixtral-8x7b",)}, "models=none; there is mixtral-8x7b"),
    ({"also": lambda case: "T is odd" if case.T % 2 else None}, "T is odd"),
    ({"also": lambda case: False}, "also() is False"),
]


@pytest.mark.parametrize("fields, want", REASONS, ids=[str(w) for _, w in REASONS])
def test_supports_reason_is_precise(fields: dict[str, Any], want: str | None) -> None:
    assert Supports(**fields).reason(CASE) == want
    port = port_of({"moe": lambda x, logits, params, layer: x, "supports": fields})
    assert port.unsupported(CASE) == want


def test_supports_local_can_be_declined() -> None:
    case = parse("moe T=1 H=32 I=32 E=4 k=2 local=1/2")
    assert Supports(local=False).reason(case) == (
        "local=1/2; there is no expert parallelism"
    )
    assert Supports().reason(case) is None


def test_supports_sizes_that_the_op_does_not_look_at_do_not_matter() -> None:
    assert Supports(H=(64, None)).reason(parse("route E=4 k=2")) is None


def test_supports_arch_of_the_device_counts_where_the_case_names_none() -> None:
    only = Supports(archs=("sm_90",))
    case = parse("route T=1 E=4 k=2")
    assert only.reason(case) is None
    assert only.reason(case, "sm_100") == "archs=sm_100; there is sm_90"


def test_supports_models_say_nothing_about_ops_without_a_layer() -> None:
    only = Supports(models=("mixtral-8x7b",))
    assert only.reason(parse("quantize T=3 H=32")) is None
    assert only.reason(parse("route model=mixtral-8x7b")) is None


UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"hidden": (1, 2)}, "no field is called 'hidden'"),
    ({"dtype": ("bf16",)}, "did you mean 'dtypes'?"),
    ({"T": 4}, "T=4 is no (least, most); write for example T=(64, None)"),
    ({"T": (9, 4)}, "T=(9, 4) is empty; give least <= most"),
    ({"multiples": {"hidden": 8}}, "must give one of T, H, I, E, k a whole number"),
    ({"multiples": {"H": 0}}, "multiples={'H': 0}"),
    ({"weights": "mxfp4"}, "weights='mxfp4' is no tuple of names"),
    ({"memory": ("stridden",)}, "memory has no 'stridden'; did you mean 'strided'?"),
    ({"formats": ("mxfp8",)}, "formats has no 'mxfp8'; did you mean 'mxfp4'?"),
    ({"models": ("mixtral",)}, "models has no 'mixtral'; did you mean 'mixtral-8x7b'"),
    ({"weights": ("fp8",)}, "weights has no 'fp8'; there are fp64, fp32, bf16"),
]


@pytest.mark.parametrize("fields, reason", UNFIT, ids=[r for _, r in UNFIT])
def test_supports_unfit_fields_are_named(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        supports_of(fields)


def test_supports_other_types_are_no_declaration() -> None:
    with pytest.raises(TypeError, match="its fields by name, or a function"):
        port_of({"route": lambda logits, params, layer: 0, "supports": 7})
    with pytest.raises(TypeError, match="a number of bytes from 1 on"):
        port_of({"route": lambda logits, params, layer: 0, "alignment": "16"})


def test_supports_fits_sizes_and_leaves_names() -> None:
    supports = refmoe.Supports(T=(1, 16), multiples={"H": 64, "I": 128})
    fitted = supports.fitted(CASE)
    assert (fitted.T, fitted.H, fitted.I, fitted.E) == (16, 128, 128, 8)
    assert supports.reason(fitted) is None
    assert Supports(memory=("contiguous",)).fitted(CASE) == CASE


def test_supports_steers_the_plan() -> None:
    """Catches a plan of cases that a port with tiles declines one and all."""
    fields = {"multiples": {"H": 128, "I": 128}, "T": (1, None)}
    named = {"moe": lambda x, logits, params, layer: x, "device": "cpu"}
    port = port_of({**named, "supports": fields})
    cell = Cell("moe", "mixtral-8x7b", "randn")
    for _, _, case in schedule([port], [cell], 8):
        assert port.unsupported(case) is None, case


def test_supports_whole_blocks_where_the_format_allows_short_ones() -> None:
    supports = Supports(whole_blocks=True)
    case = parse("experts T=3 H=64 I=96 E=4 k=2 weights=fp8_block_128")
    assert supports.reason(case) == "H=64 is no multiple of 128, whole blocks"
    fitted = supports.fitted(case)
    assert (fitted.H, fitted.I) == (128, 128)
    assert supports.reason(fitted) is None
    plain = parse("experts T=3 H=72 I=40 E=4 k=2")
    assert supports.fitted(plain) == plain


def test_supports_formats_stand_in_for_those_that_are_not() -> None:
    """Catches a port of one format that no model of the plan has, and is never run."""
    named = {"experts": lambda x, ids, weights, params, layer: x, "device": "cpu"}
    form = ("mxfp8_e4m3",)
    port = port_of({**named, "supports": {"weights": form, "activations": form}})
    grid = [Cell("experts", model, "randn") for model in DEFAULT_MODELS]
    for _, _, case in schedule([port], grid, 2):
        assert port.unsupported(case) is None, case
        assert case.layer.requantize == case.layer.activations
    other = port_of({**named, "supports": {"weights": ("mxfp4",), "k": (99, None)}})
    (_, _, case), *_ = schedule([other], grid, 1)
    assert case.weights is None


def test_tactic_of_a_case_is_the_only_one_that_runs() -> None:
    """Catches a replay that runs other tactics than the finding's."""
    used = []

    def permute(ids: Any, layer: Any, *, tactic: Any) -> Any:
        used.append(tactic)
        return PLAIN.permute(ids, layer)

    port = port_of(
        {"permute": permute, "device": "cpu", "tactics": lambda case: ((8, "a"), (9,))}
    )
    line = "permute T=3 E=4 k=2"
    record = Verifier().check(port, parse(line))
    assert used == [(8, "a"), (9,)]
    assert parse(record.case).tactic == "8_a"
    again = Verifier().check(port, parse(f"{line} tactic=9"))
    assert used[2:] == [(9,)]
    assert again.kind is Kind.BIT_EQUAL
    other = Verifier().check(port, parse(f"{line} tactic=7"))
    assert other.kind is Kind.UNSUPPORTED
    assert other.log == "the port offers no tactic 7 for this case"


def test_numerics_of_a_case_take_the_place_of_the_declaration() -> None:
    port = port_of(
        {"combine": PLAIN.combine, "device": "cpu", "numerics": PRESETS["hf_bf16"]}
    )
    record = Verifier().check(port, parse("combine T=3 H=8 E=4 k=2 numerics=ieee"))
    assert PRESETS["ieee"] in record.key
    assert parse(record.case).numerics == "ieee"
    with pytest.raises(ValueError, match="numerics='iee' is unknown; use one of"):
        parse("combine T=3 H=8 E=4 k=2 numerics=iee")

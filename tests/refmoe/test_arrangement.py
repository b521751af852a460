"""Ports whose tensors lie otherwise than the protocol says, and say so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from oracle.layouts import get
from oracle.params import Blocks
from refmoe.gallery import entries
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.verdict import Kind
from refmoe.verify import Verifier

QUANTIZE = parse("quantize T=130 H=160 format=mxfp4")
DEQUANTIZE = parse("dequantize T=3 H=64 format=mxfp4")
MOE = parse("moe model=mixtral-8x7b T=5 H=32 I=32 E=4 k=2")


def plain() -> Any:
    return entries("honest")["sequential"].port()


class Tiled:
    """Returns scales in tiles of 128 x 4, and packed codes."""

    device = "cpu"

    def __init__(self, **layouts: str) -> None:
        self.layouts = layouts

    def quantize(self, x: torch.Tensor, format: Any) -> tuple[torch.Tensor, ...]:
        found = plain().quantize(x, format)
        packed = get("nibbles_low_first").forward(found.codes)
        return packed, get("scales_128x4").forward(found.scales)

    def dequantize(self, blocks: Blocks) -> Any:
        codes = get("nibbles_low_first").inverse(blocks.codes, blocks.codes.shape)
        return plain().dequantize(replace(blocks, codes=codes))


def kind(port: Any, case: Any) -> Kind:
    return Verifier().check(port_of(port), case).kind


def test_layouts_of_results_are_brought_back() -> None:
    declared = {"codes": "nibbles_low_first", "scales": "scales_128x4"}
    assert kind(Tiled(**declared), QUANTIZE) is Kind.BIT_EQUAL


@pytest.mark.parametrize(
    "declared",
    [
        {"codes": "nibbles_high_first", "scales": "scales_128x4"},
        {"codes": "nibbles_low_first", "scales": "scales_8x4"},
        {"codes": "nibbles_low_first"},
    ],
)
def test_layouts_declared_wrongly_are_wrong(declared: dict[str, str]) -> None:
    assert kind(Tiled(**declared), QUANTIZE) is Kind.WRONG


def test_layouts_of_arguments_are_made() -> None:
    port = Tiled()
    port.layouts = {"blocks.codes": "nibbles_low_first"}
    assert kind(port, DEQUANTIZE) is Kind.BIT_EQUAL


def test_layouts_of_params_reach_prepare_too() -> None:
    """Catches weights that are arranged for the call and not for its preparation."""

    class Swapped:
        device = "cpu"
        layouts = {"params.gate_up": "up_gate"}  # noqa: RUF012

        def prepare(self, params: Any, layer: Any) -> Any:
            back = get("up_gate").inverse(params.gate_up, params.gate_up.shape)
            return replace(params, gate_up=back)

        def moe(
            self, x: Any, logits: Any, params: Any, layer: Any, *, prepared: Any
        ) -> Any:
            return plain().moe(x, logits, prepared, layer)

    assert not kind(Swapped(), MOE).failed
    Swapped.layouts = {}
    assert kind(Swapped(), MOE).failed


class ByExpert(Tiled):
    """Scales of grouped rows in tiles of each expert's own."""

    def __init__(self, *, wrong: bool = False, **layouts: str) -> None:
        super().__init__(**layouts)
        self.wrong = wrong

    def grouped_quantize(self, x: Any, offsets: Any, format: Any) -> Any:
        found, used = plain().grouped_quantize(x, offsets, format), int(offsets[-1])
        tiles = get("scales_128x4_grouped").forward(found.scales[:used], offsets)
        return found.codes, tiles.roll(1) if self.wrong else tiles


GROUPED = "grouped_quantize T=40 H=96 E=3 k=2 format=mxfp8_e4m3"


@pytest.mark.parametrize("words", ["", "slots=tail", "slots=some seed=4", "seed=2"])
def test_layouts_of_grouped_rows_go_by_expert(words: str) -> None:
    """Catches a layout that wants offsets and is called without."""
    own, case = "scales_128x4_grouped", parse(f"{GROUPED} {words}")
    assert kind(ByExpert(scales=own), case) is Kind.BIT_EQUAL
    assert kind(ByExpert(scales=own, wrong=True), case) is Kind.WRONG
    assert kind(ByExpert(scales="scales_128x4"), case) is Kind.WRONG


def test_layouts_of_one_op_are_no_other_ops() -> None:
    """Catches a port whose two quantisers lay their scales out unlike."""
    both = {
        "codes": "nibbles_low_first", "quantize.scales": "scales_128x4",
        "grouped_quantize.codes": "gate_up",
        "grouped_quantize.scales": "scales_128x4_grouped",
    }  # fmt: skip
    port = ByExpert(**both)
    assert kind(port, QUANTIZE) is Kind.BIT_EQUAL
    assert kind(port, parse(GROUPED)) is Kind.BIT_EQUAL
    port.layouts = {"codes": "nibbles_low_first", "scales": "scales_128x4_grouped"}
    record = Verifier().check(port_of(port), QUANTIZE)
    assert record.kind is Kind.UNSUPPORTED
    assert "scales of quantize has no experts, by which its layout" in record.log


def test_layouts_that_do_not_fit_the_sizes_are_unsupported() -> None:
    port = Tiled()
    port.layouts = {"blocks.codes": "sm90_fp4"}
    record = Verifier().check(port_of(port), DEQUANTIZE)
    assert record.kind is Kind.UNSUPPORTED
    assert "needs rows and columns in multiples of (16, 32)" in record.log


@pytest.mark.parametrize(
    ("layouts", "error", "words"),
    [
        ("scales_128x4", TypeError, "give a mapping of names to layouts"),
        ({"scale": "scales_128x4"}, ValueError, "did you mean 'scales'"),
        ({"scales": "scales_128x5"}, ValueError, "did you mean scales_128x4"),
        ({"quantize.scale": "scales_128x4"}, ValueError, "layouts names 'quantize."),
    ],
)
def test_layouts_are_checked_when_a_port_is_loaded(
    layouts: Any, error: type[Exception], words: str
) -> None:
    port = Tiled()
    port.layouts = layouts
    with pytest.raises(error, match=words):
        port_of(port)

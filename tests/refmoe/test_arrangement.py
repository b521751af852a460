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
    ],
)
def test_layouts_are_checked_when_a_port_is_loaded(
    layouts: Any, error: type[Exception], words: str
) -> None:
    port = Tiled()
    port.layouts = layouts
    with pytest.raises(error, match=words):
        port_of(port)

"""The shared expert with block-scaled weights: both of its GEMMs see quantised rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from oracle import bounds
from oracle.blocks import dequantize, preset, quantize
from oracle.experts import grouped_gemm
from oracle.formats import round_to
from oracle.moe import trace
from oracle.numerics import PRESETS, Numerics
from oracle.operands import division_slack, scale_runs
from oracle.params import Params
from oracle.spec import Layer, Shared
from oracle.trace import Tap

F64 = torch.float64


def layer_and_params(form: str, weight_on: str = "output") -> tuple[Layer, Params]:
    """A layer whose every weight is in the block format, the shared expert's too."""
    size = 256
    block = preset(form)
    layer = Layer(
        hidden=size, intermediate=size, experts=2, top_k=1, weights=block,
        activations=block, requantize=block, shared=Shared(size),
        weight_on=weight_on,
    )  # fmt: skip
    source = torch.Generator().manual_seed(5)

    def weight(*shape: int) -> object:
        drawn = torch.randn(*shape, generator=source, dtype=F64) / size**0.5
        return quantize(drawn.float(), block)

    return layer, Params(
        weight(2, 2 * size, size), weight(2, size, size),
        shared_gate_up=weight(2 * size, size), shared_down=weight(size, size),
    )  # fmt: skip


@pytest.mark.parametrize("weight_on", ["output", "input"])
@pytest.mark.parametrize("form", ["mxfp8_e4m3", "fp8_group_128"])
def test_shared_expert_quantises_both_operands(form: str, weight_on: str) -> None:
    """DeepSeek-V3's `linear` calls act_quant before every fp8_gemm."""
    layer, params = layer_and_params(form, weight_on)
    x = torch.randn(8, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    tap = trace(layer, params, x, torch.zeros(8, 2))["shared"]
    act = layer.activations

    def through(values: torch.Tensor) -> torch.Tensor:
        return dequantize(quantize(values, act))

    gate, up = (through(x.double()) @ dequantize(params.shared_gate_up).T).chunk(2, 1)
    hidden = round_to(gate * torch.sigmoid(gate) * up, "bf16")
    down = dequantize(params.shared_down).T
    for seen, inside in ((through(hidden), True), (hidden, False)):
        error = (seen @ down - tap.value).abs()
        assert bool((error <= tap.worst).all()) is inside
    assert (tap.worst < tap.value.abs()).float().mean() > 0.5


def test_shared_expert_in_plain_types_sees_x_as_given() -> None:
    layer, params = layer_and_params("mxfp8_e4m3")
    plain = replace(
        params,
        shared_gate_up=dequantize(params.shared_gate_up).bfloat16(),
        shared_down=dequantize(params.shared_down).bfloat16(),
    )
    x = torch.randn(8, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    tap = trace(layer, plain, x, torch.zeros(8, 2))["shared"]
    gate, up = (x.double() @ plain.shared_gate_up.double().T).chunk(2, 1)
    hidden = round_to(gate * torch.sigmoid(gate) * up, "bf16")
    error = (hidden @ plain.shared_down.double().T - tap.value).abs()
    assert bool((error <= tap.worst).all())


@pytest.mark.parametrize(
    "depth, x, weight, dequantized, runs",
    [
        (512, "bf16", "nvfp4", "none", 32), (512, "bf16", "nvfp4", "bf16", 1),
        (512, "bf16", "mxfp4", "none", 1),
        (520, "fp8_group_128", "fp8_block_128", "none", 5),
        (512, "int8_token", "int8_channel", "none", 1),
    ],
)  # fmt: skip
def test_scale_runs_count_scales_that_round(
    depth: int, x: str, weight: str, dequantized: str, runs: int
) -> None:
    forms = (name if name == "bf16" else preset(name) for name in (x, weight))
    assert scale_runs(depth, Numerics(dequantized=dequantized), *forms) == runs


def test_grouped_gemm_covers_scales_on_partial_sums() -> None:
    """Every block's sum is scaled in fp32 and added: more roundings than one sum."""
    source = torch.Generator().manual_seed(3)
    x = torch.randn(16, 512, generator=source).bfloat16()
    weight = quantize(torch.randn(1, 16, 512, generator=source), "nvfp4")
    codes = replace(weight, scales=torch.full_like(weight.scales, 0x38))
    bare = dequantize(replace(codes, global_scale=torch.ones(1)))[0].float()
    scales = dequantize(replace(weight, codes=torch.full_like(weight.codes, 2)))[0]
    total = torch.zeros(16, 16)
    for start in range(0, 512, 16):
        run = slice(start, start + 16)
        total += (x[:, run].float() @ bare[:, run].T) * scales[:, start].float()
    offsets = torch.tensor([0, 16])
    tap = grouped_gemm(bounds.exactly(x), weight, offsets, Numerics())
    assert bool(((total.double() - tap.value).abs() <= tap.worst).all())
    once = bounds.matmul(
        bounds.exactly(x), Tap(dequantize(weight)[0]), Numerics(), blocks=1
    )
    assert bool((tap.worst > once.worst).all())


def test_division_slack_is_declared_and_spares_powers_of_two() -> None:
    block = preset("fp8_group_128")
    assert division_slack(block, Numerics()) == 0.0
    assert division_slack(block, PRESETS["triton"]) == 2.5 * 2.0**-23 + 2.0**-24
    assert division_slack(preset("mxfp4"), PRESETS["triton"]) == 0.0

"""Checkpoints of GPT-OSS and DeepSeek-V4, read by transformers and by the oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from oracle.blocks import dequantize, preset
from oracle.layouts import deepseek_v4, gpt_oss
from oracle.params import Blocks, Params
from oracle.spec import Activation, Layer, Routing, Shared

MXFP4 = preset("mxfp4")
FP8 = preset("fp8_block_128:ue8m0")
GPT_OSS = Layer(
    64, 96, 3, 2,
    routing=Routing(order="topk_then_score", bias="logits"),
    activation=Activation(alpha=1.702, beta=1.0, limit=7.0),
    expert_bias=True,
    weights=MXFP4,
)  # fmt: skip
DEEPSEEK = Layer(
    256, 128, 3, 2,
    routing=Routing("sqrtsoftplus", bias="selection", renormalize="sum"),
    shared=Shared(128, weights=FP8),
    weights=MXFP4,
)  # fmt: skip


def _octets(seed: int, *shape: int, low: int = 0, high: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, generator=generator, dtype=torch.uint8)


def _floats(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


def _gpt_oss(layer: Layer) -> dict[str, torch.Tensor]:
    e, h, i = layer.experts, layer.hidden, layer.intermediate
    return {
        "experts.gate_up_proj_blocks": _octets(1, e, 2 * i, h // 32, 16),
        "experts.gate_up_proj_scales": _octets(2, e, 2 * i, h // 32, low=90, high=160),
        "experts.gate_up_proj_bias": _floats(3, e, 2 * i).bfloat16(),
        "experts.down_proj_blocks": _octets(4, e, h, i // 32, 16),
        "experts.down_proj_scales": _octets(5, e, h, i // 32, low=90, high=160),
        "experts.down_proj_bias": _floats(6, e, h).bfloat16(),
        "router.bias": _floats(7, e).bfloat16(),
    }


def _deepseek(layer: Layer) -> dict[str, torch.Tensor]:
    h, i = layer.hidden, layer.intermediate
    tensors = {"gate.bias": _floats(9, layer.experts)}
    if layer.routing.method == "hash":
        table = _octets(9, 50, layer.top_k, high=layer.experts)
        tensors = {"gate.tid2eid": table.to(torch.int32)}
    names = [f"experts.{e}." for e in range(layer.experts)] + ["shared_experts."]
    for number, prefix in enumerate(names):
        for w, (n, k) in (("w1", (i, h)), ("w3", (i, h)), ("w2", (h, i))):
            seed = 100 * number + int(w[1])
            if prefix != "shared_experts." and layer.weights == MXFP4:
                codes = _octets(seed, n, k // 2).view(torch.int8)
                scales = _octets(seed + 50, n, k // 32, low=100, high=140)
            else:
                codes = _octets(seed, n, k, high=127).view(torch.float8_e4m3fn)
                scales = _octets(seed + 50, n // 128, k // 128, low=100, high=140)
            tensors[f"{prefix}{w}.weight"] = codes
            tensors[f"{prefix}{w}.scale"] = scales.view(torch.float8_e8m0fnu)
    return tensors


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8))
        for name in a
    )


def _values(weight: object) -> torch.Tensor:
    assert isinstance(weight, Blocks)
    return dequantize(weight)


def test_gpt_oss_weights_are_what_transformers_reads() -> None:
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    tensors = _gpt_oss(GPT_OSS)
    params = gpt_oss.from_checkpoint(tensors, GPT_OSS)

    def read(name: str) -> torch.Tensor:
        blocks, scales = tensors[f"{name}_blocks"], tensors[f"{name}_scales"]
        # transformers returns [E, in, out], gate and up in alternate columns.
        got = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        return got.mT.to(torch.float64)

    rows = read("experts.gate_up_proj")
    gate, up = _values(params.gate_up).chunk(2, dim=1)
    assert torch.equal(gate, rows[:, 0::2])
    assert torch.equal(up, rows[:, 1::2])
    assert torch.equal(_values(params.down), read("experts.down_proj"))
    bias = tensors["experts.gate_up_proj_bias"]
    assert params.gate_up_bias is not None
    assert torch.equal(params.gate_up_bias[:, :96], bias[:, 0::2])
    assert torch.equal(params.gate_up_bias[:, 96:], bias[:, 1::2])


@pytest.mark.parametrize("names", ["transformers", "original"])
def test_gpt_oss_checkpoint_comes_back(names: gpt_oss.Names) -> None:
    params = gpt_oss.from_checkpoint(_gpt_oss(GPT_OSS), GPT_OSS)
    stored = gpt_oss.to_checkpoint(params, names)
    again = gpt_oss.from_checkpoint(stored, GPT_OSS, names)
    assert _same(gpt_oss.to_checkpoint(again), _gpt_oss(GPT_OSS))


HASHED = replace(DEEPSEEK, routing=Routing("sqrtsoftplus", method="hash"))
BLOCK_FP8 = replace(DEEPSEEK, weights=FP8)


@pytest.mark.parametrize("layer", [DEEPSEEK, HASHED, BLOCK_FP8], ids=str.__call__)
def test_deepseek_v4_checkpoint_comes_back(layer: Layer) -> None:
    tensors = _deepseek(layer)
    params = deepseek_v4.from_checkpoint(tensors, layer)
    assert _same(deepseek_v4.to_checkpoint(params), tensors)


def test_deepseek_v4_shared_expert_may_be_plain() -> None:
    tensors = _deepseek(DEEPSEEK)
    for w, shape in (("w1", (128, 256)), ("w3", (128, 256)), ("w2", (256, 128))):
        tensors[f"shared_experts.{w}.weight"] = _floats(int(w[1]), *shape)
        del tensors[f"shared_experts.{w}.scale"]
    plain = replace(DEEPSEEK, shared=Shared(128))
    params = deepseek_v4.from_checkpoint(tensors, plain)
    assert _same(deepseek_v4.to_checkpoint(params), tensors)


@pytest.mark.parametrize("layer", [DEEPSEEK, BLOCK_FP8], ids=["fp4", "fp8"])
def test_deepseek_v4_weights_are_what_transformers_reads(layer: Layer) -> None:
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
    reader = fp8.Fp8Dequantize(None)
    tensors = _deepseek(layer)
    params = deepseek_v4.from_checkpoint(tensors, layer)

    def read(name: str) -> torch.Tensor:
        weight, scale = tensors[f"{name}.weight"], tensors[f"{name}.scale"]
        return reader._dequantize_one(weight, scale, torch.float32).to(torch.float64)

    for e in range(layer.experts):
        gate, up = _values(params.gate_up)[e].chunk(2)
        assert torch.equal(gate, read(f"experts.{e}.w1"))
        assert torch.equal(up, read(f"experts.{e}.w3"))
        assert torch.equal(_values(params.down)[e], read(f"experts.{e}.w2"))
    gate, up = _values(params.shared_gate_up).chunk(2)
    assert torch.equal(gate, read("shared_experts.w1"))
    assert torch.equal(up, read("shared_experts.w3"))
    assert torch.equal(_values(params.shared_down), read("shared_experts.w2"))


def test_checkpoints_refuse_what_does_not_fit() -> None:
    tensors = _gpt_oss(GPT_OSS)
    with pytest.raises(ValueError, match=r"layer.weights='bf16' is no MXFP4"):
        gpt_oss.from_checkpoint(tensors, replace(GPT_OSS, weights="bf16"))
    with pytest.raises(ValueError, match="gate_up has shape"):
        gpt_oss.from_checkpoint(tensors, replace(GPT_OSS, hidden=32))
    with pytest.raises(ValueError, match=r"'mlp1_weight.blocks' is missing"):
        gpt_oss.from_checkpoint(tensors, GPT_OSS, "original")
    with pytest.raises(ValueError, match="names='hf' is unknown"):
        gpt_oss.from_checkpoint(tensors, GPT_OSS, "hf")  # type: ignore[arg-type]
    plain = Params(torch.ones(3, 192, 64), torch.ones(3, 64, 96))
    with pytest.raises(TypeError, match="gate_up is Tensor; quantise it"):
        gpt_oss.to_checkpoint(plain)
    params = gpt_oss.from_checkpoint(tensors, GPT_OSS)
    with pytest.raises(ValueError, match="router_bias is missing"):
        gpt_oss.to_checkpoint(replace(params, router_bias=None))
    with pytest.raises(TypeError, match="gate_up is Tensor and down Tensor; quantise"):
        deepseek_v4.to_checkpoint(plain)

    tensors = _deepseek(DEEPSEEK)
    with pytest.raises(ValueError, match="has no blocks; give the experts'"):
        deepseek_v4.from_checkpoint(tensors, replace(DEEPSEEK, weights="bf16"))
    with pytest.raises(ValueError, match=r"experts\.0\.w1\.scale has shape \(128, 8\)"):
        deepseek_v4.from_checkpoint(tensors, replace(DEEPSEEK, weights=FP8))
    with pytest.raises(ValueError, match=r"'experts.3.w1.weight' is missing"):
        deepseek_v4.from_checkpoint(tensors, replace(DEEPSEEK, experts=4))

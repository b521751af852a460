"""The drop-ins as ports, judged through other libraries' signatures and layouts."""

from __future__ import annotations

from collections.abc import Iterator

from on_gpu.judged import RIGHT
from on_gpu.place import Place
from on_gpu.report import Check

from refmoe.loading import load
from refmoe.parse import parse
from refmoe.port import Port
from refmoe.verify import Verifier

_MXFP8 = (
    "weights=mxfp8_e4m3 activations=mxfp8_e4m3:cublas_te "
    "requantize=mxfp8_e4m3:cublas_te"
)
_TILES = (
    "weights=fp8_block_128 activations=fp8_group_128 requantize=fp8_group_128"
)  # fmt: skip
#: Cases of each port, whose sizes fit an emulator.
CASES: dict[str, tuple[str, ...]] = {
    "flashinfer": (
        "experts T=33 H=96 I=64 E=8 k=2 expert_bias=true bias_dtype=fp32",
        "experts T=9 H=72 I=40 E=6 k=2 dtype=fp16 weights=fp16 activations=fp16 "
        "requantize=fp16 activation.kind=geglu_tanh local=1/2",
        "experts T=5 H=64 I=48 E=4 k=2 dtype=fp32 weights=fp32 activations=fp32 "
        "requantize=fp32 activation.kind=relu2 memory=offset",
        "experts T=9 H=64 I=48 E=4 k=2 activation.limit=1.0 activation.clamp=after",
        "experts model=gpt-oss-120b T=17 H=160 I=96 E=8 k=4 constants=own local=1/2",
        "experts T=9 H=128 I=128 E=6 k=2 slots=some " + _TILES,
        "experts T=9 H=96 I=64 E=6 k=2 weights=int8_channel activations=bf16 "
        "requantize=bf16 slots=twice",
        "moe model=gpt-oss-20b T=9 H=96 I=160 E=6 k=2 regime=heavy",
        "moe model=mixtral-8x7b T=9 H=96 I=64 E=8 k=2 regime=exact",
    ),
    "omni": (
        "omni_route T=33 E=4096 k=16 dtype=fp32",
        "omni_route T=9 E=64 k=6 regime=ties memory=strided",
        "omni_route T=9 E=64 k=6 dtype=fp16 memory=transposed",
        "omni_route_backward T=33 E=4096 k=16 dtype=fp32",
        "omni_route_backward T=9 E=9 k=4 slots=twice memory=transposed",
    ),
    "sglang": (
        "grouped_quantize T=65 H=160 E=4 k=2 format=mxfp8_e4m3:cublas_te load=hot",
        "grouped_quantize T=9 H=96 E=6 k=2 dtype=fp16 slots=tail "
        "format=mxfp8_e4m3:cublas_te regime=codes",
        "grouped_gemm T=65 H=160 I=40 E=4 k=2 weights=mxfp8_e4m3 regime=exact load=hot",
        "grouped_gemm T=9 H=96 I=48 E=6 k=2 weights=mxfp8_e4m3 regime=exact slots=tail",
        "experts T=65 H=160 I=96 E=4 k=2 load=hot " + _MXFP8,
        "experts T=9 H=96 I=64 E=6 k=2 dtype=fp16 local=1/2 slots=some " + _MXFP8,
        "experts T=9 H=96 I=64 E=6 k=2 activation.limit=1.0 regime=heavy " + _MXFP8,
    ),
}


def dropping_in(place: Place) -> Iterator[Check]:
    """FlashInfer's fused MoE in each mode; omni-moe's router; SGLang's MXFP8."""
    verifier = Verifier()
    room = "refmoe.dropin" + (".emulated" if place.device.type == "cpu" else "")

    def run(port: Port, line: str) -> None:
        record = verifier.check(port, parse(line))
        assert record.kind in RIGHT, f"{record.kind}: {line}; {record.log[-300:]}"

    for library, lines in CASES.items():
        port = load(f"{room}:{library}")
        for line in lines:
            yield f"{library} {line}", lambda p=port, s=line: run(p, s)

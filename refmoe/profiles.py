"""Structural dimensions that every verification visits, op by op, in cheap cases."""

from __future__ import annotations

from refmoe.case import model_of

#: Case fields for each op by the name of a profile, the most telling first.
PROFILES: dict[str, dict[str, tuple[str, ...]]] = {
    # E > 256 or no power of two, k > 8, k = E, tiles of E = 128 and k = 8; 64 and 128
    # rows per expert and one more; 65536 slots; more experts than shared memory and
    # more logits than a warp hold.
    "edges": {
        "route": ("E=264 k=9", "E=128 k=8", "E=600 k=24", "T=3 E=20 k=20"),
        "permute": (
            "T=9 E=300 k=11", "T=8192 E=12 k=8", "T=5 E=9 k=9", "T=128 E=1000 k=2",
            "T=3 E=6300 k=2",
        ),
        "grouped_quantize": ("T=64 E=2 k=2", "T=129 H=64 E=3 k=3", "T=5 E=260 k=9"),
        "grouped_gemm": (
            "T=65 H=32 I=32 E=2 k=2", "T=128 H=32 I=32 E=2 k=2",
            "T=129 H=64 I=32 E=2 k=2", "T=64 H=64 I=32 E=2 k=2",
        ),
        "activate": ("T=5 I=32 E=260 k=9", "T=64 I=64 E=2 k=2"),
        "combine": ("T=5 H=96 E=12 k=12", "T=3 H=64 E=300 k=17"),
        "experts": ("T=4 H=64 I=32 E=6 k=6",),
        "omni_route": ("T=3 E=400 k=33", "T=2 E=16 k=16", "T=2 E=66564 k=4"),
        "omni_route_backward": (
            "T=3 E=400 k=33", "T=2 E=16 k=16", "T=3 E=4225 k=9",
        ),
        "omni_experts": ("T=3 H=32 E=289 k=9", "T=2 H=64 E=16 k=16"),
    },
    # H and I multiples of 32 only, I > H / 2, I > H.
    "ragged": {
        "quantize": ("T=3 H=96", "T=1 H=2080"),
        "dequantize": ("T=3 H=96", "T=1 H=2080"),
        "grouped_gemm": ("T=5 H=32 I=224 E=4 k=2", "T=5 H=160 I=96 E=4 k=2"),
        "activate": ("T=5 I=352 E=4 k=2",),
        "combine": ("T=5 H=352 E=4 k=2",),
        "experts": ("T=3 H=32 I=224 E=4 k=2", "T=3 H=160 I=96 E=4 k=2"),
    },
    "views": {
        "*": ("T=5 memory=strided", "T=5 memory=transposed", "T=5 memory=offset"),
    },
    "slots": {
        op: (
            "T=9 E=8 k=4 slots=some", "T=9 E=8 k=4 slots=twice",
            "T=9 E=6 k=2 slots=some",
        )
        for op in (
            "permute", "activate", "activate+quantize", "experts", "combine",
            "omni_experts",
        )
    }
    | {
        op: (
            "T=9 E=6 k=2 slots=tail", "T=9 E=6 k=2 slots=some",
            "T=9 E=6 k=2 slots=twice",
        )
        for op in ("grouped_quantize", "grouped_gemm")
    }
    | {"omni_route_backward": ("T=9 E=9 k=4 slots=twice",)},
    "ranks": {
        "permute": ("T=9 E=8 k=2 local=1/2", "T=9 E=7 k=3 local=2/3"),
        "experts": (
            "T=9 E=8 k=2 local=1/2", "T=5 I=192 E=4 k=2 shard=1/2",
            "T=9 E=8 k=2 local=0/3",
        ),
        "moe": (
            "T=9 E=8 k=2 local=0/2", "T=5 I=192 E=4 k=2 shard=1/2",
            "T=9 E=8 k=2 local=2/3",
        ),
    },
    "types": {
        "route": (
            "T=9 E=16 k=4 logits_dtype=bf16", "T=9 E=16 k=4 logits_dtype=fp16",
            "T=9 E=16 k=4 bias_dtype=bf16",
        ),
        "experts": ("T=5 E=8 k=2 bias_dtype=fp32",),
        "moe": ("T=5 E=8 k=2 logits_dtype=bf16 bias_dtype=bf16",),
    },
    # Formats of weights and activations that models with MXFP4 weights also come in; a
    # NaN in one token stays out of a scale that all tokens share.
    "formats": {
        op: (
            "T=9 E=6 k=2 weights=mxfp4 activations=bf16 requantize=bf16",
            f"T=9 E=6 k=2 weights=nvfp4 activations=nvfp4 requantize=nvfp4{regime}",
            "T=9 E=6 k=2 weights=fp8_block_128 activations=fp8_group_128 "
            "requantize=fp8_group_128",
            "T=9 E=6 k=2 weights=mxfp4 activations=mxfp8_e4m3 requantize=mxfp8_e4m3",
        )
        for op, regime in (("experts", " regime=nonfinite"), ("moe", ""))
    },
    # Small limits, none, and constants that differ from expert to expert.
    "constants": {
        "activate+quantize": (
            "T=9 constants=own", "T=9 activation.limit=1 format=mxfp4",
        ),
        "activate": (
            "T=9 constants=own", "T=9 activation.limit=0.5", "T=9 activation.limit=0",
            "T=9 activation.limit=1",
        ),
        "grouped_gemm": ("T=9 E=6 k=2 weights=nvfp4 constants=own",),
        "experts": ("T=9 E=6 k=2 constants=own",),
        "moe": ("T=9 E=6 k=2 constants=own", "T=9 E=6 k=2 activation.limit=1"),
    },
}  # fmt: skip


def concerns(profile: str, op: str, model: str) -> bool:
    """Whether the model has what the profile varies: limits are for those with one."""
    if profile == "formats":
        form = model_of(model).weights
        return not isinstance(form, str) and form.name == "mxfp4"
    if profile != "constants" or op == "grouped_gemm":
        return True
    return model_of(model).activation.limit is not None


def words(profile: str, op: str) -> tuple[str, ...]:
    """The words of each of the profile's cases of `op`; empty where it has none."""
    cases = PROFILES[profile]
    return cases.get(op, cases.get("*", ()))

"""The cases that mutants meet: the judge's plan, and what it leaves to campaigns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from refmoe.case import Case
from refmoe.kernels.preparations import PREPARATIONS
from refmoe.laws import LAWS
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.plan import DEFAULT_FORMATS, DEFAULT_MODELS, Cell, cells
from refmoe.port import Port, spelt
from refmoe.regimes import REGIMES
from refmoe.schedule import heard, schedule

#: What is covered beside the defaults: each brings a policy that no other one has.
MODELS = (
    *DEFAULT_MODELS, "deepseek-v4-flash-hash", "phi-3.5-moe", "llama-4-scout",
    "gemma-4-26b-a4b", "grok-1", "nemotron-3-nano-30b", "longcat-flash", "minimax-m2",
    "ernie-4.5-21b", "jetmoe-8b", "inkling", "qwen2-moe-a2.7b", "step-3.7-flash",
    "deepseek-v2", "granite-3b-a800m", "kimi-k2-thinking", "inkling-2-small",
    "deepseek-v3.1", "a.x-k2", "grok-1-sglang",
)  # fmt: skip
FORMATS = (
    *DEFAULT_FORMATS, "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxint8", "mxfp4:ceil",
    "mxfp4:even", "mxfp8_e4m3:rceil", "mxfp4:quark", "mxfp8_e4m3:modelopt", "nvfp4:te",
    "nvfp4:te_2d", "nvfp4:flashinfer", "nvfp4:torchao", "nvfp4:modelopt",
    "nvfp4:torchao_single", "fp8_group_128", "fp8_group_128:vllm",
    "fp8_group_128:ue8m0", "fp8_block_128", "fp8_token", "fp8_channel", "fp8_tensor",
    "int8_token", "int8_token:torchao", "int8_channel", "int4_group_32",
    "int4_group_32:torchao", "int4_group_128", "mxfp4:microxcaling",
    "mxfp8_e4m3:microxcaling", "mxfp4:deepgemm", "mxfp4:cublas_te",
    "mxfp8_e4m3:cublas_te", "mxfp4:triton_kernels", "mxfp8_e4m3:vllm_torch",
    "fp8_group_128:sglang", "fp8_group_128:transformers", "fp8_token:vllm",
    "int4_group_32:bf16", "int8_token:sglang",
)  # fmt: skip
#: Types other than a model's, more slots than warps of which some are empty,
#: rows and experts that one thread block does not take at once.
MORE = {
    "types": (
        "quantize T=3 H=96 format=mxfp8_e4m3", "quantize T=5 H=256 format=int8_token",
        "quantize T=3 H=96 format=nvfp4", "dequantize T=3 H=96 format=nvfp4",
        "grouped_quantize T=5 H=96 E=3 k=2 format=nvfp4",
        "grouped_quantize T=5 H=96 E=3 k=2 format=mxfp4", "combine T=5 H=96 E=8 k=2",
        "quantize T=33 H=96 format=mxfp8_e4m3:cublas_te",
        "quantize T=33 H=96 format=mxfp4:torchao_floor",
        "grouped_quantize T=33 H=96 E=3 k=2 format=mxfp4:cublas_te",
        "grouped_quantize T=3 H=2112 E=3 k=2 format=nvfp4",
        "grouped_gemm T=5 H=64 I=32 E=3 k=2", "experts T=5 H=64 I=32 E=3 k=2",
        "experts T=5 H=64 I=32 E=3 k=2 weight_on=input",
        "activate T=5 I=96 E=8 k=2", "activate+quantize T=5 I=96 E=4 k=2",
        "omni_route T=3 E=400 k=9", "omni_route_backward T=3 E=400 k=33",
        "omni_experts T=2 H=96 E=16 k=4", "permute T=70 E=6 k=2",
    ),
    "slots": (
        "omni_experts T=5 H=64 E=400 k=20 slots=some",
        "combine T=70 H=64 E=12 k=9 slots=some", "permute T=70 E=40 k=9 slots=some",
    ),
    "ragged": (
        "dequantize T=2 H=4128 format=mxfp4", "quantize T=3 H=2080 format=int8_token",
        "quantize T=2 H=8320 format=fp8_tensor", "combine T=2 H=2080 E=4 k=2",
        "quantize T=5 H=64 format=fp8_block_128 memory=offset",
        "quantize T=0 H=64 format=nvfp4:torchao",
        "grouped_quantize T=3 H=4160 E=3 k=2 format=nvfp4",
        "grouped_quantize T=2 H=2080 E=3 k=2 format=nvfp4 memory=offset",
        "activate T=2 I=2080 E=4 k=2",
        "activate+quantize T=2 I=2080 E=4 k=2", "omni_experts T=2 H=4128 E=16 k=2",
        "route T=3 E=1100 k=4", "route T=3 E=1000 k=33",
        "route T=9 E=1056 k=40 routing.groups=8 routing.top_groups=3",
        "route T=9 E=1056 k=4 routing.score=sigmoid routing.bias=selection "
        "routing.groups=8 routing.top_groups=3 routing.group_score=top2",
        "omni_route T=3 E=4225 k=9", "omni_route T=130 E=4225 k=70",
        "omni_route T=2 E=400 k=120", "omni_route T=9 E=4225 k=120",
        "omni_route T=1 E=400 k=374", "route T=2 E=33000 k=4 routing.bias=logits",
        "route T=9 E=16 k=4 routing.score=sigmoid routing.order=topk_then_score "
        "routing.renormalize=sum",
        "grouped_gemm T=9 H=32 I=32 E=300 k=9", "experts T=9 H=32 I=32 E=300 k=9",
        "grouped_gemm T=9 H=64 I=544 E=3 k=2", "experts T=3 H=1056 I=64 E=3 k=2",
        "experts T=5 H=256 I=32 E=3 k=2 weight_on=input",
        "experts T=70 H=32 I=32 E=4 k=4",
        "experts T=70 H=32 I=32 E=4 k=4 weight_on=intermediate",
        "moe T=300 H=32 I=32 E=4 k=2 shared.intermediate=32 shared.combine=gated",
        "moe T=9 H=64 I=32 E=4 k=2 shared.intermediate=32 shared.combine=average",
        "experts T=70 H=64 I=64 E=2 k=2 weights=mxfp8_e4m3 activations=mxfp8_e4m3 "
        "tactic=mma_medium",
        "experts T=9 H=64 I=64 E=4 k=2 weights=mxfp4 tactic=naive",
        "experts T=9 H=256 I=256 E=4 k=2 weights=fp8_channel "
        "activations=fp8_group_128 requantize=fp8_group_128 tactic=naive",
        "experts T=9 H=64 I=64 E=4 k=2 weight_on=input activations=fp8_tensor "
        "local=0/2",
    ),
}  # fmt: skip


#: Ops that a regime says something of beside those that it suits most.
_SUITED = {"nonfinite": ("quantize", "grouped_quantize", "activate+quantize")}


@dataclass(frozen=True, slots=True)
class Item:
    """One case of the plan, and what the unchanged kernels do with it."""

    #: The plan's port, or one of its ways to prepare weights.
    port: str
    case: str
    cell: tuple[str, str, str, str]
    launched: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    verdict: str = ""
    reported: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Port and case."""
        return self.port, self.case

    @property
    def inputs(self) -> tuple[str, str, str]:
        """Port, op, and regime, profile or law."""
        return self.port, self.cell[0], self.cell[3] or self.cell[2]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is run: cases of a default cell, of any other, hearings of a law."""

    port: str
    cases: int
    others: int
    hearings: int
    ops: tuple[str, ...] = ()


def item_of(found: dict[str, Any]) -> Item:
    """The item that `asdict` made a dictionary of."""
    launched = tuple((file, expression) for file, expression in found["launched"])
    return Item(**{**found, "cell": tuple(found["cell"]), "launched": launched})


def planned(plan: Plan) -> Iterator[Item]:
    """The cases of a plan; where there are several ways to run one they take turns."""
    ports = [load(plan.port), *(load(f"{plan.port}:{name}") for name in PREPARATIONS)]
    seen: set[tuple[str, str]] = set()
    turns: Counter[tuple[str, str]] = Counter()
    for port, cell, case in _cases(plan, ports):
        if port.unsupported(case) is not None:
            continue
        tactics = (None,) if case.law is not None else port.tactics(case)
        turn = port.name, case.op
        tactic = tactics[turns[turn] % len(tactics)] if tactics else None
        turns[turn] += 1
        case = case if tactic is None else case.but(tactic=spelt(tactic))
        where = cell.op, cell.subject, cell.regime, cell.profile
        item = Item(port.name, str(case), where)
        if item.key not in seen:
            seen.add(item.key)
            yield item


def _cases(plan: Plan, ports: Sequence[Port]) -> Iterator[tuple[Port, Cell, Case]]:
    """Laws and others last: of equal cases the first counts."""
    ops = plan.ops or tuple(ports[0].ops)
    default = cells(ops, DEFAULT_MODELS, DEFAULT_FORMATS, tuple(REGIMES), confined=True)
    every = cells(ops, MODELS, FORMATS, tuple(REGIMES), confined=True)
    others = [cell for cell in every if cell not in set(default)]
    yield from schedule(ports, default, plan.cases)
    for port in ports:
        for cell, case in _more(port, ops, plan.hearings):
            yield port, cell, case
    yield from schedule(ports, others, plan.others)
    yield from heard(ports, default, tuple(LAWS.values()), plan.hearings)


def _more(port: Port, ops: Sequence[str], count: int) -> Iterator[tuple[Cell, Case]]:
    """The cases of MORE, each in every regime that suits, `count` times."""
    for profile, lines in MORE.items():
        for line in lines:
            given = parse(line)
            for name, rule in REGIMES.items():
                suited = not rule.suits or given.op in (
                    *rule.suits,
                    *_SUITED.get(name, ()),
                )
                if given.op not in port.ops or given.op not in ops or not suited:
                    continue
                for seed in range(count):
                    case = given.but(regime=name, seed=seed)
                    if profile == "types":
                        case = case.but(dtype=("fp16", "fp32")[seed % 2])
                    if port.unsupported(case) is None:
                        yield Cell(given.op, case.format or "-", name, profile), case

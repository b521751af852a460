"""What a first call compiles ahead: all that it launches, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from refmoe.kernels import cache, foresight, launch, loader, port
from refmoe.kernels.compiler import CompileError
from refmoe.kernels.launchers.activate import activate
from refmoe.kernels.launchers.gemm import Gemm, naive
from refmoe.kernels.launchers.quantize import quantize
from refmoe.kernels.source import ROOM
from refmoe.parse import parse
from refmoe.problem import build
from refmoe.protocol import OPS
from tests.kernels.cold import TARGET, Cold

MODELS = (
    "gpt-oss-120b", "deepseek-v3", "deepseek-v4-flash", "mixtral-8x7b",
    "qwen2-moe-a2.7b", "llama-4-scout",
)  # fmt: skip
#: Of the weights, and of what is multiplied with them.
FORMATS = (
    ("bf16", "bf16"), ("mxfp4", "bf16"), ("mxfp4", "mxfp8_e4m3"),
    ("mxfp8_e4m3", "mxfp8_e4m3"), ("fp8_block_128", "fp8_group_128"),
    ("fp8_tensor", "fp8_tensor"), ("nvfp4", "nvfp4"), ("int8_channel", "int8_token"),
)  # fmt: skip
TACTICS = (
    None, "naive", "mma_small", "mma_medium", "mma_large", "mma_huge", "mma_apart",
)  # fmt: skip
FORMS = ("modular", "modular_late", "modular:naive", "modular_late:mma_medium")
SIZES = "T=8 H=128 I=128 E=16 k=2"
LINES = (
    *(f"moe model={model} {SIZES}" for model in MODELS),
    *(f"moe {SIZES} weights={w} activations={a} requantize={a}" for w, a in FORMATS),
    f"experts model=deepseek-v3 {SIZES}",
)


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cold]:
    gpu = Cold()
    monkeypatch.setattr(cache, "find", gpu.find)
    monkeypatch.setattr(cache, "fetch", gpu.fetch)
    with launch.through(gpu):
        yield gpu


def call_of(line: str, *, prepared: bool = True) -> partial[object]:
    """The op of a case with its arguments, all but the tactic."""
    problem = build(parse(line))
    given = {"params": problem.params, "layer": problem.layer, **problem.inputs}
    arguments = [given[field.name] for field in OPS[problem.case.op].arguments]
    keywords = {n: given[n] for n in ("token_ids",) if n in given}
    if prepared:
        keywords["prepared"] = port.prepare(problem.params, problem.layer)
    return partial(getattr(port, problem.case.op), *arguments, **keywords)


@pytest.mark.parametrize("line", LINES)
def test_foresight_sees_every_kernel_of_a_call(line: str, cold: Cold) -> None:
    """Catches what data, devices or addresses decide: it would compile by itself."""
    call, case = call_of(line), parse(line)
    for tactic in (*TACTICS, *(FORMS if case.op == "moe" else ())):
        cold.forget()
        call(tactic=tactic)
        assert cold.met == [], tactic
        assert cold.disk == cold.launched, tactic


@pytest.mark.parametrize("line", LINES)
def test_foresight_sees_what_stands_around_a_librarys_products(
    line: str, cold: Cold
) -> None:
    """Weights are decoded expert by expert: here none has a row, but one may."""
    call = call_of(line)
    cold.forget()
    call(tactic="torch")
    assert cold.met == []
    assert {kernel.file for kernel in cold.disk - cold.launched} <= {"dequantize.cu"}


def test_foresight_ends_at_a_function_of_others(cold: Cold) -> None:
    call_of(LINES[0])(tactic=lambda gemm: naive(gemm))
    assert cold.disk == cold.launched


@pytest.mark.parametrize(
    "line",
    ["quantize T=8 H=64 format=nvfp4", "grouped_quantize T=8 H=64 E=4 k=2 format=nvfp4",
     "permute T=8 E=16 k=2", "combine model=gpt-oss-120b T=8 H=64 E=16 k=2"],
    ids=lambda line: line.split()[0],
)  # fmt: skip
def test_foresight_sees_every_kernel_of_a_part(line: str, cold: Cold) -> None:
    call_of(line, prepared=False)()
    assert len(cold.launched) > 1
    assert cold.met == []
    assert cold.disk == cold.launched


def test_foresight_never_calls_functions_of_others(cold: Cold) -> None:
    seen: list[str] = []

    def own(gemm: Gemm) -> torch.Tensor:
        seen.append(gemm.device.type)
        return naive(gemm)

    call_of(LINES[0])(tactic=own)
    assert seen == ["cpu", "cpu"]


def test_foresight_knows_addresses() -> None:
    """Catches vectors foreseen for x that starts between two of them."""

    def first(x: torch.Tensor) -> str:
        (kernel,) = foresight.kernels(quantize, (x, "mxfp8_e4m3"), {}, TARGET)
        return kernel.expression.partition("<")[0]

    x = torch.zeros(65 * 64, dtype=torch.bfloat16)
    assert first(x[: 64 * 64].view(64, 64)) == "quantize_groups"
    assert first(x[1 : 1 + 64 * 64].view(64, 64)) == "quantize_naive"


def test_foresight_runs_once_and_only_without_a_kernel(
    cold: Cold, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    own = foresight.kernels
    monkeypatch.setattr(
        foresight, "kernels", lambda *a: looked.append(a) or own(*a)[:2]
    )
    call = call_of(LINES[0])
    call(tactic="naive")
    assert len(looked) == 1
    assert len(cold.met) == len(cold.launched) - 2
    call(tactic="naive")
    assert len(looked) == 1
    # The kernels of other ops are nobody's business.
    x = torch.zeros(4, 64, dtype=torch.bfloat16)
    problem = build(parse(LINES[0]))
    activate(x, problem.params, problem.layer, torch.zeros(4, dtype=torch.int32))
    assert len(looked) == 1


def test_foresight_tells_an_error_of_the_compiler_where_it_is_met(cold: Cold) -> None:
    call = call_of(LINES[0])
    cold.disk.clear()
    call(tactic="naive")
    kernels = set(cold.disk)
    gemm = next(k for k in kernels if k.expression == "gemm_naive<kPlain>")
    cold.disk.clear()
    cold.broken.add(gemm)
    with pytest.raises(CompileError, match="gemm_naive<kPlain> does not compile"):
        call(tactic="naive")
    assert cold.disk == kernels - {gemm}


def test_foresight_leaves_errors_to_the_call(cold: Cold) -> None:
    call = call_of(LINES[0])
    cold.disk.clear()
    with pytest.raises(ValueError, match="there is no 'nave'; there are naive"):
        call(tactic="nave")
    assert cold.disk == set()


def test_launches_of_other_threads_go_their_own_way(cold: Cold) -> None:
    """Catches a look ahead that swallows what another thread launches."""
    seen: list[launch.Backend] = []
    thread = threading.Thread(target=lambda: seen.append(launch.current()))
    thread.start()
    thread.join()
    assert launch.current() is cold
    assert [backend.kind for backend in seen] == ["cuda"]


def test_foresight_brings_kernels_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvrtc: tuple[int, int]
) -> None:
    monkeypatch.setenv("REFMOE_CACHE_DIR", str(tmp_path))

    def op(down: torch.Tensor) -> None:
        rows = torch.zeros(4, dtype=torch.int32, device=down.device)
        port.combine(down, rows, torch.zeros(4, 1, device=down.device))

    found = foresight.kernels(op, (torch.zeros(4, 8),), {}, TARGET)
    assert len(found) == 2
    foresight.compile_ahead(op, (torch.zeros(4, 8),), {}, TARGET)
    assert all(loader.find(k.file, k.expression, TARGET) for k in found)
    assert len(list(tmp_path.glob("kernels/*.json"))) == 2


def test_foresight_loads_no_compiler_of_pytorch() -> None:
    """Catches arithmetic on the meta device, whose first use takes a second."""
    script = f"""if True:
        import sys, test_foresight as own
        from refmoe.kernels import foresight, port
        modules = set(sys.modules)
        for line in {LINES[:6]!r}:
            call = own.call_of(line, prepared=False)
            for tactic in {(*TACTICS, *FORMS, "torch")!r}:
                keywords = call.keywords | {{"tactic": tactic}}
                found = foresight.kernels(call.func, call.args, keywords, "sm_90a")
                assert len(found) >= 4, (line, tactic)
        new = {{name.split(".")[1] for name in set(sys.modules) - modules
                if name.startswith("torch.")}}
        assert not new & {{"_dynamo", "_inductor", "_refs"}}, new
        """
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, text=True,
        capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOM.parents[1])},
    )  # fmt: skip
    assert not done.returncode, done.stderr

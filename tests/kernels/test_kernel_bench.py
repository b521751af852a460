"""`refmoe bench --kernels`: what it times runs, and what it says without a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from oracle.params import Params
from oracle.spec import Layer
from refmoe.cli.app import app
from refmoe.kernels import bench, compiler
from refmoe.kernels.bench import clock, memory, routing
from refmoe.kernels.bench.compiling import FORMATS, of_layer
from refmoe.kernels.launchers.route import route_tokens

CPU = torch.device("cpu")


def once(calls: Sequence[Callable[[], object]]) -> float:
    """Every call once, in place of a graph."""
    for call in calls:
        call()
    return 2.0


def test_bench_runs_what_it_times(
    emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an op that the bench calls in a way that it does not take."""
    for name, value in {
        "ROWS": 8,
        "COLUMNS": 256,
        "SETS": 1,
        "graph_time": once,
    }.items():
        monkeypatch.setattr(memory, name, value)
    times = list(memory.memory_bound(CPU, copied=1e9))
    assert [t.name for t in times if t.torch] == [
        "gather 4 x 4", "combine 4 x 4", "activate swiglu",
    ]  # fmt: skip
    shares = {t.name: t.of_copy for t in times}
    assert len(shares) == len(times) == 17
    moved = 8 * 256 * 3 + 8 * 256 // 32
    assert shares["quantize mxfp8_e4m3"] == pytest.approx(moved / 2e-6 / 1e9)
    twice = 8 * 256 * (2 * 2 + 1) + 4
    assert shares["quantize fp8_tensor, x read twice"] == pytest.approx(
        twice / 2e-6 / 1e9
    )


def test_bench_router_of_torch_routes_alike(
    emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a peer that is timed at other work."""
    logits = torch.randn(5, 128)
    ids, weights = routing._by_torch(logits, 4)
    layer = Layer(8, 8, 128, 4, routing=routing._SUM)
    own = Params(logits[:0], logits[:0])
    routed = route_tokens(logits, own, layer)
    assert torch.equal(routed.ids, ids.int())
    torch.testing.assert_close(routed.weights, weights)


def test_bench_compiles_what_a_layer_launches(
    monkeypatch: pytest.MonkeyPatch, nvrtc: object
) -> None:
    """Catches a layer that the kernels refuse: nothing would be left to time."""
    compiled: list[str] = []

    def image(file: str, expressions: tuple[str, ...], target: str) -> compiler.Image:
        compiled.extend(expressions)
        return compiler.Image(target, b"", {}, {}, ())

    monkeypatch.setattr(compiler, "compile_file", image)
    for formats in FORMATS:
        compiled.clear()
        cold, warm = of_layer("sm_90a", *formats)
        assert "moe, " + " by ".join(formats) in cold.name
        assert warm.name.endswith("from the disk cache")
        gemms = {name.split(",")[3] for name in compiled if name.startswith("gemm_mma")}
        assert gemms == {" kPlain", " kSwiglu"}
        assert any(name.startswith("combine_rows") for name in compiled)


def test_time_reads_as_a_line() -> None:
    time = clock.Time("x", 50.0, "us", 0.7, 99.0, "7")
    assert str(time) == "    50.00 us   70.0% of copy  torch 99.00, 2.0x  target 7"


def test_bench_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, ["bench", "--kernels"])
    assert result.exit_code == 2
    assert "PyTorch sees no GPU" in result.output


def test_bench_writes_its_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a file that misses what was measured before a failure."""
    times = [clock.Time("x", 1.5), clock.Time("y", 2.5, of_copy=0.5)]

    def failing() -> object:
        yield from times
        raise OSError("gone")

    monkeypatch.setattr(bench, "run", failing)
    path = tmp_path / "times.json"
    result = CliRunner().invoke(app, ["bench", "--kernels", "--json", str(path)])
    assert result.exit_code == 2
    assert "gone" in result.output
    assert json.loads(path.read_text()) == [asdict(time) for time in times]
    assert "1.50 us" in result.output


def test_bench_json_goes_with_kernels() -> None:
    result = CliRunner().invoke(app, ["bench", "--judge", "--json", "x"])
    assert result.exit_code == 2
    assert "--json goes with --kernels" in result.output

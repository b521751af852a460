"""Problems as files: written, answered by someone else, judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, safe_open, save_file

from refmoe.cli import files as commands
from refmoe.cli.checking import run_check
from refmoe.exchange import files, scaffold
from refmoe.exchange.script import script
from refmoe.gallery import entries
from refmoe.judge import judge
from refmoe.loading import load, port_of
from refmoe.parse import parse
from refmoe.problem import Problem, build
from refmoe.runner import run
from refmoe.verdict import Kind, Outcome

MOE = "moe model=gpt-oss-120b T=3 H=32 I=32 E=8 k=4 seed=1"
#: A port that knows nothing of refmoe: sorted top-k over plain tensors.
STRANGER = """
import torch
import typer

def route(logits, params, layer):
    weights, ids = torch.softmax(logits.double(), 1).topk(layer.top_k)
    if layer.routing.renormalize == "sum":
        weights = weights / weights.sum(1, keepdim=True)
    return ids.int(), weights.float() * FACTOR
"""


ROOT = Path(__file__).resolve().parents[2]


def ran(
    source: Path, *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(source), *arguments],
        cwd=folder or source.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (1.01, 1)])
def test_exchange_script_needs_the_port_and_torch_alone(
    tmp_path: Path, factor: float, status: int
) -> None:
    port = STRANGER.replace("FACTOR", str(factor))
    (tmp_path / "stranger.py").write_text(port)
    problem = build(parse("route model=mixtral-8x7b T=3 E=8 k=2"))
    (tmp_path / "repro.py").write_text(script(problem, "stranger"))
    done = ran(tmp_path / "repro.py")
    assert done.returncode == status, done.stderr
    assert "ids: 0 of 6" in done.stdout
    assert ("weights: 0 of 6" in done.stdout) == (status == 0)
    imports = [
        line
        for line in (tmp_path / "repro.py").read_text().splitlines()
        if line.startswith(("import ", "from "))
    ]
    assert not any("refmoe" in line or "oracle" in line for line in imports)


def test_exchange_script_gives_a_port_of_refmoe_its_classes(tmp_path: Path) -> None:
    """Catches a script whose layer has fields but none of a Layer's properties."""
    problem = build(parse(MOE + " regime=heavy"))
    source = tmp_path / "repro.py"
    source.write_text(script(problem, "refmoe.gallery.mistakes:no_clamp"))
    done = ran(source, "refmoe.gallery.mistakes:no_clamp", folder=ROOT)
    assert done.returncode == 1, done.stderr
    assert "elements outside" in done.stdout
    assert ran(source, "refmoe.gallery.honest:sequential", folder=ROOT).returncode == 0


def test_exchange_script_refuses_layouts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a file that compares tiles of scales with rows of them."""
    text = 'layouts = {"scales": "scales_128x4"}\ndef quantize(x, format): ...\n'
    (tmp_path / "tiled_port.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    line = "quantize T=1 H=32 format=mxfp4"
    with pytest.raises(typer.Exit) as ended:
        commands.script(line, "tiled_port")
    assert ended.value.exit_code == 2
    assert "declares layouts, which only refmoe can undo" in capsys.readouterr().err


def test_exchange_script_refuses_what_is_too_large() -> None:
    problem = build(parse("combine T=1024 H=2048 E=4 k=1"))
    with pytest.raises(ValueError, match="the limit is 4194304: give a smaller case"):
        script(problem, "port")


def answered(tmp_path: Path, name: str) -> tuple[Problem, Path]:
    """A problem as a file, and where its answer belongs."""
    case = parse(MOE)
    path = files.write(case, tmp_path, name)
    return build(case), files.answer(path)


def test_exchange_files_hold_everything_but_the_answer(tmp_path: Path) -> None:
    problem, _ = answered(tmp_path, "first")
    path = tmp_path / "first.safetensors"
    tensors = load_file(path)
    assert torch.equal(tensors["x"], problem.inputs["x"])
    assert torch.equal(tensors["params.gate_up.codes"], problem.params.gate_up.codes)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["case"] == str(problem.case)
    assert json.loads(metadata["layer"])["activation"]["limit"] == 7.0
    assert json.loads(metadata["results"])["out"] == {
        "shape": [3, 32],
        "dtypes": ["bfloat16"],
    }
    assert "out" not in tensors


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_exchange_answers_are_judged(tmp_path: Path, scale: float) -> None:
    problem, path = answered(tmp_path, "first")
    port = port_of(entries("honest")["sequential"].port())
    out = run(port, problem).outputs["out"]
    save_file({"out": out * scale}, path)
    verdict = judge(problem, files.read(path, problem)).verdict
    assert verdict.kind.failed is (scale != 1.0)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"out": torch.zeros(3, 31)}, "shape (3, 31); want (3, 32)"),
        ({"out": torch.zeros(3, 32)}, "float32; want bfloat16"),
        ({"result": torch.zeros(3)}, "'result', which is none of out, "),
        ({}, "has no out"),
    ],
)
def test_exchange_unfit_answers_are_violations(
    tmp_path: Path, tensors: dict[str, torch.Tensor], words: str
) -> None:
    problem, path = answered(tmp_path, "first")
    save_file(tensors, path)
    assert any(words in item for item in files.read(path, problem).violations)


def test_exchange_answers_may_be_missing_or_broken(tmp_path: Path) -> None:
    problem, path = answered(tmp_path, "first")
    missing = files.read(path, problem)
    assert missing == Outcome("missing", log="there is no first.out.safetensors")
    path.write_bytes(b"nonsense")
    assert judge(problem, files.read(path, problem)).verdict.kind is Kind.CRASHED


def test_exchange_folders_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no problems; write some"):
        list(files.problems(tmp_path))
    answered(tmp_path, "first")
    with pytest.raises(FileExistsError, match=r"first\.safetensors exists"):
        answered(tmp_path, "first")
    assert [line for _, line in files.problems(tmp_path)] == [str(parse(MOE))]
    save_file({"x": torch.zeros(1)}, tmp_path / "second.safetensors")
    with pytest.raises(ValueError, match="has no version of these files"):
        list(files.problems(tmp_path))


def test_exchange_scaffold_starts_a_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = scaffold.start("fresh_port", tmp_path)
    assert set(load("fresh_port").ops) == {"moe"}
    assert len(first.read_text().splitlines()) < 20
    assert len(second.read_text().splitlines()) == 3
    with pytest.raises(FileExistsError, match=r"fresh_port\.py exists"):
        scaffold.start("fresh_port", tmp_path)
    with pytest.raises(ValueError, match="'my-port' is no module's name"):
        scaffold.start("my-port", tmp_path)
    with pytest.raises(ValueError, match="'class' is no module's name"):
        scaffold.start("class", tmp_path)
    with pytest.raises(ValueError, match="'torch' is a module already, which yours"):
        scaffold.start("torch", tmp_path)


@pytest.mark.parametrize(("scale", "status"), [(1.0, 0), (1.5, 1), (None, 3)])
def test_exchange_folders_are_judged(
    tmp_path: Path, scale: float | None, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    problem, path = answered(tmp_path, "first")
    if scale is not None:
        out = run(port_of(entries("honest")["sequential"].port()), problem).outputs
        save_file({"out": out["out"] * scale}, path)
    assert run_check(tmp_path, "ieee", stable=False) == status
    assert ("never ran" in capsys.readouterr().out) is (scale is None)


def test_exchange_folder_that_takes_no_files_is_named() -> None:
    with pytest.raises(OSError, match=r"/proc/first\.safetensors cannot be written"):
        files.write(parse(MOE), Path("/proc"), "first")


def test_exchange_failure_is_reproduced_by_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a `refmoe repro` of a folder, which is no port."""
    folder = tmp_path / "my answers"
    folder.mkdir()
    problem, path = answered(folder, "first")
    save_file({"out": torch.full((3, 32), 1e4, dtype=torch.bfloat16)}, path)
    assert run_check(folder, "ieee", stable=True) == 1
    told = capsys.readouterr().out.splitlines()
    assert f"  case: {problem.case}" in told
    assert f"  reproduce: refmoe check '{folder}' --numerics ieee --stable" in told


def test_exchange_numerics_of_a_folder_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit):
        run_check(tmp_path, "triton_kernel", stable=False)
    assert "did you mean 'triton_kernels'?" in capsys.readouterr().err

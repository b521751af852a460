"""The pipeline over many cases, and the commands with their exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from refmoe.cli.app import app
from refmoe.cli.commands import chosen_ports
from refmoe.loading import port_of
from refmoe.plan import Cell, cells
from refmoe.verdict import Kind
from refmoe.verify import findings, schedule, status, verify

PORTS = """
import torch
from oracle import blocks
from oracle.moe import trace

device = "cpu"

def moe(x, logits, params, layer):
    return trace(layer, params, x, logits)["out"].value.to(x.dtype)

class wrong:
    device = "cpu"
    def moe(x, logits, params, layer):
        return moe(x, logits, params, layer) * 2

class refusing:
    device = "cpu"
    def moe(x, logits, params, layer):
        raise ValueError("no kernel for this layer")

class rare:
    device = "cpu"
    supports = {"formats": ("mxint8",)}
    def quantize(x, format):
        return blocks.quantize(x, format)

class crashing:
    device = "cpu"
    def moe(x, logits, params, layer):
        raise RuntimeError("illegal memory access")
"""
QUICK = ["--quick", "--model", "mixtral-8x7b", "--regime", "randn", "--no-laws"]


@pytest.fixture
def ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"ports_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(PORTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def run(*arguments: str) -> Any:
    """The command, with ports in this process: workers have tests of their own."""
    runs = arguments[0] in ("verify", "repro")
    return CliRunner().invoke(app, [*arguments, *["--in-process"] * runs])


def ordinary(ops: tuple[str, ...], model: str, regimes: tuple[str, ...]) -> list[Cell]:
    """Cells of no profile: their cases a port of a few lines can do."""
    grid = cells(ops, (model,), ("mxfp4",), regimes)
    return [cell for cell in grid if not cell.profile]


def test_verify_is_clean_for_the_oracle_itself(honest: Any) -> None:
    port = port_of(honest())
    grid = ordinary(("moe", "route", "permute"), "gpt-oss-120b", ("randn", "exact"))
    seen = []
    records = verify([port], grid, 2, seen=seen.append)
    assert len(records) == len(seen) == 2 * len(grid)
    assert {record.kind for record in records} <= {Kind.BIT_EQUAL, Kind.WITHIN}
    assert status(records) == 0
    assert findings(records) == []


def test_verify_stops_after_the_case_in_hand(honest: Any) -> None:
    """Catches an interruption that throws away what was judged before it."""
    grid = ordinary(("permute",), "mixtral-8x7b", ("randn",))
    answers = iter((False, False, True))
    records = verify([port_of(honest())], grid, 8, stopped=lambda: next(answers))
    assert len(records) == 3


def test_schedule_visits_all_cells_before_any_second_case(honest: Any) -> None:
    port = port_of(honest())
    grid = ordinary(("moe", "permute", "quantize"), "mixtral-8x7b", ("randn",))
    visited = [cell.op for _, cell, _ in schedule([port], grid, 2)]
    assert visited == ["moe", "permute", "moe", "permute"]


def test_schedule_takes_plain_types_where_only_those_are_supported(honest: Any) -> None:
    port = port_of(
        {
            "moe": honest().moe,
            "supports": lambda case: isinstance(case.layer.weights, str),
        }
    )
    grid = ordinary(("moe",), "gpt-oss-120b", ("randn",))
    ((_, _, case),) = schedule([port], grid, 1)
    assert case.layer.weights == "bf16"


EXITS = [
    ("", 0, "bit-equal 100 %"),
    (":wrong", 1, "WRONG moe["),
    (":crashing", 1, "RuntimeError: illegal memory access"),
    (":refusing", 3, "never ran: moe of mixtral-8x7b"),
]


@pytest.mark.parametrize("suffix, code, text", EXITS)
def test_command_verify_exit_status(
    ports: str, suffix: str, code: int, text: str
) -> None:
    result = run("verify", ports + suffix, *QUICK)
    assert result.exit_code == code
    assert text in result.output


def test_command_verify_prints_a_finding_that_replays(ports: str) -> None:
    result = run("verify", f"{ports}:wrong", *QUICK)
    line = next(part for part in result.output.splitlines() if "reproduce: " in part)
    case = line.split("'")[1]
    assert line.strip() == f"reproduce: refmoe repro '{case}' {ports}:wrong"
    again = run("repro", case, f"{ports}:wrong")
    assert again.exit_code == 1
    assert again.output.startswith(f"WRONG moe[{ports}:wrong]  {case}")
    assert run("repro", case, ports).exit_code == 0


def test_command_verify_shows_the_first_verdict(ports: str) -> None:
    result = run("verify", ports, *QUICK)
    assert "first verdict: BIT_EQUAL  moe model=mixtral-8x7b T=4" in result.output
    assert "declares nothing, taken as Numerics()" in result.output


def test_command_verify_writes_the_certificate(ports: str, tmp_path: Path) -> None:
    file = tmp_path / "certificate.json"
    run("verify", ports, f"{ports}:wrong", *QUICK, "--json", str(file), "--seed", "5")
    document = json.loads(file.read_text())
    assert document["verdicts"] == {"BIT_EQUAL": 1, "WRONG": 1}
    assert document["seed"] == 5
    assert [port["name"] for port in document["ports"]] == [ports, f"{ports}:wrong"]
    assert "seed=5" in document["cases"][0]["case"]


def test_command_verify_writes_reports_and_excuses_known_failures(
    ports: str, tmp_path: Path
) -> None:
    page, suite, known = (tmp_path / name for name in ("p.html", "j.xml", "k.toml"))
    known.write_text('[[expected]]\nreason = "https://x.org/1"\nop = "moe"\n')
    files = ("--html", str(page), "--junit", str(suite))
    judged = ("verify", f"{ports}:wrong", *QUICK, *files)
    assert run(*judged).exit_code == 1
    assert "There are failures." in page.read_text()
    assert "<failure" in suite.read_text()
    result = run(*judged, "--expected-failures", str(known))
    assert result.exit_code == 0
    assert "failed as expected" in result.output
    assert "No failures." in page.read_text()
    assert "<failure" not in suite.read_text()
    right = run("verify", ports, *QUICK, "--expected-failures", str(known))
    assert right.exit_code == 1
    assert "no longer fails; remove it" in right.output


USAGE = [
    (["verify", "no_such_port"], "refmoe: port 'no_such_port': there is no module"),
    (["verify", "json", *QUICK], "refmoe: port 'json' offers no op"),
    (["verify", "PORT", "--op", "mo"], "refmoe: no op is called 'mo'"),
    (["verify", "PORT", "--regime", "exakt"], "did you mean 'exact'?"),
    (["verify", "PORT", "--model", "gpt-oss"], "refmoe: unknown model 'gpt-oss'"),
    (["verify", "PORT", "--format", "mxfp8"], "refmoe: unknown block format 'mxfp8'"),
    (["verify", "PORT", "--cases", "0"], "greater than or equal to 1"),
    (["repro", "moe T=1", "PORT"], "refmoe: case: H is missing"),
    (["repro", "moe model=mixtral-8x7b T=1", "PORT"], "lift the bound (--large)"),
    (["bench"], "say what to measure: --oracle"),
    (["verfy"], "No such command 'verfy'"),
]


@pytest.mark.parametrize("arguments, text", USAGE, ids=[" ".join(a) for a, _ in USAGE])
def test_command_usage_errors_exit_with_2(
    ports: str, arguments: list[str], text: str
) -> None:
    result = run(*(ports if word == "PORT" else word for word in arguments))
    assert result.exit_code == 2
    assert text in result.output
    assert "Traceback" not in result.output


def test_command_refuses_ports_whose_gpu_is_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a traceback out of torch in place of one line."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    port = port_of({"moe": lambda x, logits, params, layer: x, "device": "cuda"})
    with pytest.raises(ValueError, match="torch sees no GPU here; run it where"):
        chosen_ports(["mine"], lambda names: [port])


def test_command_repro_without_a_port_for_the_op_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("refmoe.cli.commands.chosen_ports", lambda names, load: [])
    result = run("repro", "permute T=4 E=8 k=2")
    assert result.exit_code == 3
    assert "no default port has the op permute; name a PORT" in result.output


def test_command_verify_adds_the_formats_that_a_port_names(ports: str) -> None:
    """Catches a port of a rare format that is never run on it."""
    quick = (f"{ports}:rare", "--op", "quantize", *QUICK)
    result = run("verify", *quick)
    assert result.exit_code == 0, result.output
    assert "mxint8" in result.output
    assert run("verify", *quick, "--format", "mxfp4").exit_code == 3


def test_command_names_lists_what_cases_can_name() -> None:
    result = run("names")
    assert result.exit_code == 0
    assert (
        "route(logits: float[T, E], params, layer) -> ids: index[T, k]" in result.output
    )
    for name in (
        "regime exact", "gpt-oss-120b", "mxfp4", "layouts: mapping", "scales_128x4 of",
        "numerics: reference ieee", "by name: prepared, token_ids, local",
    ):  # fmt: skip
        assert name in result.output


def test_command_help_states_the_exit_status() -> None:
    assert "Exit status: 0 clean; 1 WRONG, CRASHED or HUNG" in run("--help").output


def test_module_runs_like_the_command(ports: str, tmp_path: Path) -> None:
    """`python -m refmoe` finds a port in the current directory."""
    root = Path(__file__).parents[2]
    run_ = subprocess.run(
        [sys.executable, "-m", "refmoe", "verify", ports, *QUICK],
        cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert run_.returncode == 0, run_.stderr


def test_package_import_brings_no_heavy_module() -> None:
    """Catches rich, typer, numpy-heavy or hypothesis imports behind `import refmoe`."""
    script = (
        "import torch, sys; before = set(sys.modules); import refmoe, refmoe.cli;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new & {'rich', 'typer', 'click', 'hypothesis', 'transformers'}))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_package_refuses_a_foreign_oracle(tmp_path: Path) -> None:
    """Catches another distribution's `oracle` shadowing the specification."""
    root = Path(__file__).parents[2]
    foreign = tmp_path / "oracle"
    for source in (root / "oracle").rglob("*.py"):
        copy = foreign / source.relative_to(root / "oracle")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(source.read_text())
    done = subprocess.run(
        [sys.executable, "-c", "import refmoe"],
        capture_output=True, text=True, cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{root}"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "remove or rename the other one" in done.stderr

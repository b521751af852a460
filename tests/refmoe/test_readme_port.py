"""The port that the README shows runs as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from oracle.models import get
from oracle.params import Params
from refmoe.cli.app import app

README = Path(__file__).parents[2] / "README.md"


def shown() -> str:
    """The first block of Python in the README."""
    found = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_readme_port_has_ten_lines() -> None:
    code = [line for line in shown().splitlines() if line.strip()]
    assert len([line for line in code if not line.startswith("#")]) <= 10


@pytest.mark.parametrize("factor, code", [(1.0, 0), (1.25, 1)])
def test_readme_port_is_judged(
    honest: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
    code: int,
) -> None:
    """Right kernels behind it pass, and wrong ones do not."""
    layer = get("mixtral-8x7b")

    def fused_moe(
        x: torch.Tensor, logits: torch.Tensor, prepared: Any, top_k: int
    ) -> torch.Tensor:
        gate_up, down = prepared
        sized = layer.resized(experts=logits.shape[1], top_k=top_k)
        out: torch.Tensor = honest().moe(x, logits, Params(gate_up, down), sized)
        return out * factor

    kernels = SimpleNamespace(
        pack=lambda gate_up, down: (gate_up.clone(), down.clone()), fused_moe=fused_moe
    )
    monkeypatch.setitem(sys.modules, "my_kernels", kernels)
    monkeypatch.delitem(sys.modules, "my_port", raising=False)
    # A port that names no device runs on the GPU where there is one; this one cannot.
    (tmp_path / "my_port.py").write_text(shown() + '\ndevice = "cpu"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    narrow = ["--model", "mixtral-8x7b", "--regime", "randn", "--cases", "2"]
    # The kernels are a stand-in of this process.
    arguments = ["verify", "my_port", *narrow, "--no-laws", "--in-process"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    assert "my_port on cpu: moe; declares Numerics()" in result.output
    monkeypatch.delitem(sys.modules, "my_port")

"""The kernels as ports: what they offer, and every op judged in the emulator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import refmoe.kernels
from oracle.spec import Layer
from refmoe.dropin import LIBRARIES
from refmoe.kernels import catalogue, port
from refmoe.kernels.preparations import PREPARATIONS
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.plan import cases, cells
from refmoe.protocol import OPS
from refmoe.verdict import Kind
from refmoe.verify import Verifier

OWN = [op for op in OPS if op.replace("+", "_") in port.__all__]


def test_port_offers_its_ops_lazily() -> None:
    assert set(port.__all__) <= set(dir(refmoe.kernels))
    loaded = load("refmoe.kernels")
    assert set(loaded.ops) == set(OWN)
    assert (loaded.device, loaded.get("deterministic")) == ("cuda", True)
    for name in port.__all__:
        assert getattr(refmoe.kernels, name) is getattr(port, name)
    with pytest.raises(AttributeError, match="no attribute 'rout'"):
        refmoe.kernels.rout  # noqa: B018


def test_port_says_beforehand_what_its_launchers_refuse() -> None:
    line = "experts T=2 H=32 I=32 E=2 k=1 routing.zero_experts=4"
    loaded = load("refmoe.kernels")
    assert loaded.unsupported(parse(line)) is None
    for place in ("input", "intermediate"):
        reason = loaded.unsupported(parse(f"{line} weight_on={place}"))
        assert reason == f"identity experts with the weight on the {place}"


def test_ports_are_loaded_without_a_look_at_the_gpu() -> None:
    """Catches a load after which the processes forked from this one find no GPU."""
    names = ["refmoe.kernels", *(f"refmoe.kernels:{name}" for name in PREPARATIONS)]
    names += [f"refmoe.dropin:{name}" for name in LIBRARIES]
    code = """if True:
        import sys
        import torch
        def ask(*arguments):
            raise SystemExit("loading the port asks for a GPU")
        torch.cuda.is_available = torch.cuda.device_count = ask
        torch.cuda.get_device_capability = torch.cuda._lazy_init = ask
        from refmoe.loading import load
        for name in sys.argv[1:]:
            assert load(name).device == "cuda"
    """
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_port_emulated_is_the_same_port() -> None:
    own, emulated = load("refmoe.kernels"), load("refmoe.kernels.emulated")
    assert set(own.ops) == set(emulated.ops)
    assert own.numerics == emulated.numerics
    assert emulated.device == "cpu"


def test_port_declares_the_type_of_the_intermediate() -> None:
    layer = Layer(8, 8, 4, 2, dtype="fp32")
    assert port.declares(layer)[1].intermediate == "fp32"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("activate T=2 I=8 E=2 k=1 dtype=fp64", "no float64"),
        ("activate T=2 I=8 E=2 k=1 memory=strided", "there is contiguous"),
        ("grouped_quantize T=2 H=128 E=2 k=1 format=fp8_block_128", "span rows"),
    ],
)
def test_port_says_what_it_does_not_support(line: str, reason: str) -> None:
    answer = port.supports.reason(parse(line))
    assert answer is not None
    assert reason in answer


@pytest.mark.parametrize("op", OWN)
def test_port_is_right_on_every_op(op: str, host_compiler: str) -> None:
    verifier, emulated = Verifier(), load("refmoe.kernels.emulated")
    models, formats = ("gpt-oss-120b", "deepseek-v3"), ("mxfp8_e4m3", "nvfp4")
    found = cells([op], models, formats, ("randn", "exact"))
    # Each case of an op that multiplies runs with every tactic: not all profiles.
    found = found[:6] if op in port.MULTIPLYING else found
    for cell in found:
        for case in cases(cell, 2 if op in port.MULTIPLYING else 3):
            case = case.but(memory="contiguous")
            kind = verifier.check(emulated, case, cell).kind
            assert kind in (Kind.BIT_EQUAL, Kind.WITHIN, Kind.AMBIGUOUS), str(case)


def test_warm_up_compiles_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvrtc: tuple[int, int]
) -> None:
    monkeypatch.setenv("REFMOE_CACHE_DIR", str(tmp_path))
    few = {"combine.cu": catalogue.instances()["combine.cu"][:2]}
    monkeypatch.setattr(catalogue, "instances", lambda: few)
    catalogue.warm_up("sm_80")
    assert len(list((tmp_path / "kernels").glob("*.cubin"))) == 1
    again = catalogue.warm_up("sm_80", workers=1)
    assert set(again) == {"combine.cu"}
    assert again["combine.cu"] < 1.0

"""Ports from names, modules, objects and functions; what their errors say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from oracle.numerics import PRESETS, Numerics
from oracle.spec import Layer
from refmoe.case import Case
from refmoe.loading import load, port_of
from refmoe.port import ATTRIBUTES
from refmoe.protocol import OPS


def moe(x: Any, logits: Any, params: Any, layer: Any) -> Any:
    return x


def module(**names: Any) -> ModuleType:
    made = ModuleType("made")
    for name, value in names.items():
        if callable(value):
            value.__module__ = "made"
        setattr(made, name, value)
    return made


def test_port_may_be_a_function() -> None:
    port = port_of(moe)
    assert (port.name, list(port.ops)) == ("moe", ["moe"])
    assert port.numerics == PRESETS["ieee"]
    assert not port.declared


def test_port_may_be_a_mapping_an_object_or_a_module() -> None:
    declared = Numerics(intermediate="fp32")
    for value in (
        {"moe": moe, "numerics": declared},
        SimpleNamespace(moe=moe, numerics=declared),
        module(moe=moe, numerics=declared),
    ):
        port = port_of(value, "mine")
        assert list(port.ops) == ["moe"]
        assert port.numerics is declared
        assert port.declared


def test_port_numerics_may_be_the_name_of_a_preset() -> None:
    assert (
        port_of({"moe": moe, "numerics": "reference"}).numerics == PRESETS["reference"]
    )
    with pytest.raises(ValueError, match="no numerics are called 'iee'; did you mean"):
        port_of({"moe": moe, "numerics": "iee"})


def test_port_functions_imported_from_elsewhere_are_not_taken_for_typing_errors() -> (
    None
):
    def routed() -> None: ...

    routed.__module__ = "elsewhere"
    made = module(moe=moe)
    made.router = ModuleType("router")  # type: ignore[attr-defined]
    made.routes = routed  # type: ignore[attr-defined]
    assert list(port_of(made).ops) == ["moe"]


def test_port_helpers_imported_from_the_oracle_are_no_ops() -> None:
    from oracle.blocks import quantize
    from oracle.experts import combine

    made = module(moe=moe)
    made.quantize, made.combine = quantize, combine  # type: ignore[attr-defined]
    assert list(port_of(made).ops) == ["moe"]


def test_port_module_offers_only_what_it_lists_in_all() -> None:
    made = module(moe=moe, permute=lambda ids, layer: ids, device="cpu")
    made.__all__ = ["permute"]  # type: ignore[attr-defined]
    port = port_of(made)
    assert (list(port.ops), port.device) == (["permute"], "cpu")


MISSPELT = [
    ({"mo": moe}, "'mo' is no op and no attribute of a port; did you mean 'moe'?"),
    ({"moe": moe, "numeric": 1}, "did you mean 'numerics'?"),
    (
        module(grouped_gem=moe),
        "offers no op; did you mean 'grouped_gemm' by 'grouped_gem'?",
    ),
    (
        module(moe=moe, combin=lambda down, rows, weights: down),
        "'combin' is no op and no attribute of a port; did you mean 'combine'?",
    ),
    (module(moe=moe, numeric=Numerics()), "did you mean 'numerics'?"),
    (module(moe=moe, suports=moe), "A helper's name begins with an underscore"),
    (SimpleNamespace(moe=moe, determinstic=True), "did you mean 'deterministic'?"),
    (SimpleNamespace(moe=moe, stabel=True), "did you mean 'stable'?"),
    (SimpleNamespace(), "offers no op; define at least one of route, quantize"),
]


@pytest.mark.parametrize("value, reason", MISSPELT, ids=[r for _, r in MISSPELT])
def test_port_misspelt_names_are_pointed_out(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match="port 'mine'") as caught:
        port_of(value, "mine")
    assert reason in str(caught.value)


UNFIT = [
    ({"moe": 3}, "moe=3 is not callable"),
    (
        {"moe": moe, "graph_safe": "moe"},
        "graph_safe='moe' is a str; give True, False or a tuple of ops and tactics",
    ),
    ({"moe": moe, "stable": "yes"}, "stable='yes' is a str; give True or False"),
    ({"moe": moe, "signed_zeros": 1}, "signed_zeros=1 is a int; give True or False"),
    ({"moe": moe, "numerics": 3}, "numerics=3 is a int; give a refmoe.Numerics"),
    ({"moe": moe, "taps": "ids"}, "taps='ids' is a str; give a tuple of names"),
    ({"moe": moe, "supports": True}, "supports=True is a bool; give a refmoe.Supports"),
]


@pytest.mark.parametrize("value, reason", UNFIT, ids=[r for _, r in UNFIT])
def test_port_attributes_of_a_wrong_type_are_named(value: Any, reason: str) -> None:
    with pytest.raises(TypeError) as caught:
        port_of(value)
    assert reason in str(caught.value)


def test_port_taps_must_be_taps_of_the_layer() -> None:
    with pytest.raises(ValueError, match="no tap is called 'gateup'; did you mean"):
        port_of({"moe": moe, "taps": ("gateup",)})


def test_port_device_must_be_one_of_torch() -> None:
    with pytest.raises(ValueError, match="device='gpu' is no device of torch; give"):
        port_of({"moe": moe, "device": "gpu"})


def test_port_device_must_be_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    port_of({"moe": moe, "device": "cpu"}).check_device()
    with pytest.raises(ValueError, match="device='cuda', but torch sees no GPU here"):
        port_of({"moe": moe, "device": "cuda"}).check_device()


def test_port_signature_must_fit_the_op() -> None:
    def moe(x: Any, gate: Any) -> None: ...

    with pytest.raises(ValueError, match="cannot be called as") as caught:
        port_of(moe)
    message = str(caught.value)
    assert "moe(x, logits, params, layer)" in message
    keywords = "prepared, token_ids, local, out, workspace, taps"
    assert f"keywords it may have are {keywords}" in message


def test_port_required_keywords_of_the_contract_are_fine() -> None:
    def moe(x: Any, logits: Any, params: Any, layer: Any, *, prepared: Any) -> None: ...

    assert list(port_of(moe).ops) == ["moe"]


def test_port_declares_must_answer_with_layer_and_numerics() -> None:
    layer = Layer(8, 8, 4, 2)
    other = layer.resized(hidden=16)
    assert port_of({"moe": moe}).definition(layer) == (layer, PRESETS["ieee"])
    own = port_of({"moe": moe, "declares": lambda layer: other})
    assert own.definition(layer) == (other, PRESETS["ieee"])
    bad = port_of({"moe": moe, "declares": lambda layer: "all"}, "mine")
    with pytest.raises(
        TypeError, match="returned 'all'; return a Layer and a Numerics"
    ):
        bad.definition(layer)


def test_port_supports_answers_with_a_reason() -> None:
    for answer, want in (
        (True, None), (None, None), (False, "supports() is False"), ("k > 8", "k > 8"),
    ):  # fmt: skip
        port = port_of({"moe": moe, "supports": lambda case, answer=answer: answer})
        assert port.unsupported(Case("moe")) == want


def test_port_every_attribute_is_documented_and_no_op() -> None:
    assert not set(ATTRIBUTES) & set(OPS)
    assert all(text for text in ATTRIBUTES.values())


def test_load_finds_modules_in_the_current_directory_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "port_of_the_current_directory"
    (tmp_path / f"{name}.py").write_text(
        "def moe(x, logits, params, layer):\n    return x\n"
        "class inner:\n    ops = {'moe': moe}\n"
    )
    (tmp_path / "torch.py").write_text("raise ImportError('shadowed')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    port = load(name)
    assert (port.name, list(port.ops)) == (name, ["moe"])
    assert list(load(f"{name}:inner.ops").ops) == ["moe"]
    assert sys.path[-1] == str(tmp_path)
    assert torch.__name__ == "torch"
    with pytest.raises(ValueError, match=r"'iner' is not in .*; did you mean 'inner'"):
        load(f"{name}:iner")


UNLOADABLE = [
    ("./my_port.py", "write package.module or package.module:object, here 'my_port'"),
    ("dir/my_port.py", "here 'dir.my_port'"),
    ("", "is no module"),
]


@pytest.mark.parametrize("target, reason", UNLOADABLE)
def test_load_says_how_a_port_is_named(target: str, reason: str) -> None:
    with pytest.raises(ValueError, match="is no module") as caught:
        load(target)
    assert reason in str(caught.value)


def test_load_tells_an_absent_port_from_its_missing_dependency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImportError, match="there is no module 'absent_port'"):
        load("absent_port")
    (tmp_path / "needy_port.py").write_text("import absent_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ImportError, match=r"Error: No module named 'absent_dependency' \(.*port.py:1\)"
    ):
        load("needy_port")
    (tmp_path / "whole_port.py").write_text("")
    with pytest.raises(ImportError, match=r"'whole_port.py'.*; write 'whole_port'"):
        load("whole_port.py")


BROKEN = {
    "def moe(x y): pass": r"SyntaxError: .*\(broken_0.py, line 1\)",
    "\nraise RuntimeError('no driver')": r"RuntimeError: no driver \(.*broken_1.py:2\)",
    "import refmoe\nrefmoe.Numerics(acumulate='fp32')": r"TypeError: .*_2.py:2\)",
    "import refmoe\nrefmoe.Numerics(accumulate='tf32')": r"'tf32' is.*_3.py:2\)",
    "import sys\nsys.exit(3)": r"SystemExit: 3 \(.*broken_4.py:2\)",
}


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_load_says_what_the_ports_import_raised_and_where(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, reason = list(BROKEN.items())[number]
    (tmp_path / f"broken_{number}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=rf"cannot be imported: .*{reason}"):
        load(f"broken_{number}")

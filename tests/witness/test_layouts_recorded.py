"""Layouts against what released code stored, by digest."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from typing import Any

import pytest
import torch

from oracle.layouts import get, s0e5m3

FILE = resources.files("oracle") / "vectors" / "layouts.json"
VECTORS = json.loads(FILE.read_text())


def _input(case: dict[str, Any]) -> torch.Tensor:
    count = torch.Size(case["shape"]).numel()
    index = torch.arange(count, dtype=torch.int64) + case["seed"]
    octets = (2654435761 * index % 2**32) >> 24
    x = (octets % case["modulus"] + case["least"]).to(torch.uint8)
    x = x.reshape(case["shape"])
    return x.view(getattr(torch, case["view"])) if "view" in case else x


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case["name"]) for case in VECTORS["recorded"]]
)
def test_layouts_store_what_released_code_stores(case: dict[str, Any]) -> None:
    x = _input(case)
    layout = get(case["layout"])
    stored = layout.forward(x, **case["options"])
    octets = stored.contiguous().view(torch.uint8).flatten().tolist()
    assert hashlib.sha256(bytes(octets)).hexdigest() == case["sha256"]
    assert torch.equal(layout.inverse(stored, x.shape, **case["options"]), x)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case["name"]) for case in VECTORS["departures"]]
)
def test_s0e5m3_keeps_what_others_lose(case: dict[str, Any]) -> None:
    codes = torch.tensor(case["input"], dtype=torch.uint8)
    stored = s0e5m3.encode(codes, case["rescale"])
    assert stored.tolist() == case["expected"]
    assert torch.equal(s0e5m3.decode(stored, case["rescale"]), codes)

"""What goes between judge and worker: descriptions, frames, tensors."""

from __future__ import annotations

import os
import re
import socket
from typing import Any

import pytest
import torch

from oracle.models import MODELS
from oracle.numerics import PRESETS, Numerics
from oracle.spec import Layer
from refmoe.parse import parse
from refmoe.problem import build
from refmoe.supports import Supports
from refmoe.verdict import Outcome
from refmoe.worker.channel import Garbled, digest, read, receive, send, write
from refmoe.worker.codec import decoded, encoded
from refmoe.worker.parcel import checked, inputs_of, problem_frame, problem_of


def test_codec_descriptions_survive() -> None:
    for layer in MODELS.values():
        assert decoded(Layer, encoded(layer)) == layer
    for numerics in PRESETS.values():
        assert decoded(Numerics, encoded(numerics)) == numerics
    supports = Supports(T=(1, None), multiples={"H": 64}, dtypes=("bf16",))
    assert decoded(Supports, encoded(supports)) == supports


LAYER = encoded(MODELS["mixtral-8x7b"])
BAD: list[tuple[dict[str, Any], str]] = [
    ({"hidden": True}, "Layer.hidden=True is no int"),
    ({"hidden": "__import__('os')"}, "is no int"),
    ({"hidden": -1}, "hidden=-1 is too small"),
    ({"surprise": 1}, "Layer has no field 'surprise'"),
    ({"weights": {"name": 3}}, "Layer.weights.name=3 is no str"),
    ({"dtype": "float"}, "dtype='float' is unknown"),
]


@pytest.mark.parametrize("change, text", BAD, ids=[text for _, text in BAD])
def test_codec_refuses_what_is_not_declared(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        decoded(Layer, {**LAYER, **change})


def test_codec_refuses_objects() -> None:
    with pytest.raises(TypeError, match="it cannot be sent as JSON"):
        encoded(object())


def test_channel_frames_are_whole_or_garbled() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    send(one, {"id": 1})
    one.send(b'{"id": 2')
    one.send(b"[3]")
    assert receive(other) == {"id": 1}
    for _ in range(2):
        with pytest.raises(Garbled, match="that are no frame"):
            receive(other)
    with pytest.raises(ValueError, match="the limit is"):
        send(one, {"log": "x" * 200_000})
    one.close()
    assert receive(other) is None
    other.close()


def test_channel_tensors_keep_type_strides_and_place() -> None:
    file = os.memfd_create("tensors")
    wide = torch.arange(64, dtype=torch.float32).to(torch.bfloat16).reshape(4, 16)
    given = {
        "view": wide[1:, 3:9],
        "codes": torch.arange(6, dtype=torch.uint8).view(torch.float8_e4m3fn),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.empty(0, 7),
        "repeated": torch.ones(1).expand(5),
    }
    found = read(file, write(file, given))
    assert digest(found) == digest(given)
    for name, tensor in given.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
    assert found["view"].stride() == (16, 1)
    os.close(file)


HEADER = {
    "name": "x",
    "dtype": "float32",
    "shape": [4],
    "stride": [1],
    "at": 0,
    "lead": 0,
}
LIES = [
    {"shape": [400]}, {"shape": [-4]}, {"at": -8}, {"at": 1 << 70}, {"lead": 1 << 40},
    {"stride": [1 << 40]}, {"dtype": "object"}, {"shape": ["4"]}, {"stride": []},
    {"shape": None},
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_channel_header_that_lies_is_garbled(lie: dict[str, Any]) -> None:
    """Catches a header that reads beyond its file, or takes all memory."""
    file = os.memfd_create("tensors")
    os.write(file, bytes(16))
    assert read(file, [HEADER])["x"].tolist() == [0.0] * 4
    with pytest.raises(Garbled, match="does not fit its file"):
        read(file, [{**HEADER, **lie}])
    os.close(file)


def test_parcel_problem_arrives_as_it_is() -> None:
    file = os.memfd_create("problem")
    for line in (
        "moe model=gpt-oss-120b T=5 H=64 I=32 E=8 k=4 memory=strided seed=2",
        "quantize T=3 H=64 format=nvfp4",
        "experts T=5 H=32 I=32 E=8 k=2 local=1/2",
    ):
        problem = build(parse(line))
        found = problem_of(problem_frame(problem, file), file)
        assert digest(inputs_of(found)) == digest(inputs_of(problem))
        assert (found.case, found.layer) == (problem.case, problem.layer)
        assert found.inputs.get("local") == problem.inputs.get("local")
    os.close(file)


def test_parcel_outcome_is_held_against_the_contract_again() -> None:
    problem = build(parse("route T=3 E=4 k=2"))
    ids, weights = torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2)

    def sentences(**outputs: torch.Tensor) -> tuple[str, ...]:
        return checked(Outcome("ran", outputs), problem).violations

    assert sentences(ids=ids, weights=weights) == ()
    assert sentences(ids=ids) == ("the call returned no weights",)
    assert sentences(ids=ids[1:], weights=weights) == (
        "ids has shape (2, 2); want (3, 2)",
    )
    assert sentences(ids=ids, weights=weights, more=ids) == (
        "no result is called 'more'",
    )
    taps = checked(
        Outcome("ran", {"ids": ids, "weights": weights}, {"?": ids}), problem
    )
    assert taps.violations == ("no tap is called '?'",)

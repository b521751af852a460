"""The vectors: our answer to each, and the schema that they keep."""

import copy
import json
from importlib import resources

import pytest
import torch

from oracle import blocks, formats
from oracle.params import Blocks
from oracle.vectors import check, load, tensor

FILES = ("formats", "blocks")
VECTORS = [vector for name in FILES for vector in load(name)]


def _answer(vector):
    """What the oracle makes of a vector's inputs."""
    if vector.operation == "encode":
        return {"codes": formats.encode(vector.inputs["values"], **vector.arguments)}
    if vector.operation == "quantize":
        got = blocks.quantize(vector.inputs["x"], **vector.arguments)
        return {"scales": got.scales, "codes": got.codes}
    format = blocks.preset(vector.arguments["format"])
    stored = Blocks(vector.inputs["codes"], vector.inputs["scales"], format)
    return {"values": blocks.dequantize(stored)}


def _same_bits(got, want):
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    if not got.is_floating_point():
        return torch.equal(got, want)
    signs = (got.signbit() == want.signbit()) | want.isnan()
    return torch.equal(got.nan_to_num(-7.0), want.nan_to_num(-7.0)) and signs.all()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_vector_expected_answer(vector):
    answer = _answer(vector)
    assert answer.keys() == vector.expected.keys()
    for name, want in vector.expected.items():
        assert _same_bits(answer[name], want), (answer[name], want)


@pytest.mark.parametrize(
    "vector", [v for v in VECTORS if v.who_is_right == "oracle"], ids=lambda v: v.id
)
def test_vector_peers_disagree(vector):
    """A peer recorded as wrong gives other bytes than expected."""
    for got in vector.peers.values():
        pairs = [(got[name], want) for name, want in vector.expected.items()]
        assert not all(_same_bits(*pair) for pair in pairs)


def test_vector_notes_cover_the_known_disagreements():
    flags = {flag for vector in VECTORS for flag in vector.flags}
    assert {"LOG2", "BYTE_ZERO", "TIES", "DOUBLE_ROUNDING", "DECODE_NAN"} <= flags


def _document():
    path = resources.files("oracle") / "vectors" / "formats.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _without(key):
    def spoil(document):
        del document["vectors"][0][key]

    return spoil


def _set(key, value):
    def spoil(document):
        document["vectors"][0][key] = value

    return spoil


def _twice(document):
    document["vectors"].append(document["vectors"][0])


def _unused(document):
    document["notes"]["IDLE"] = {"class": "a", "effect": "b", "reference": "c"}


def _thin_note(document):
    del next(iter(document["notes"].values()))["reference"]


@pytest.mark.parametrize(
    "spoil,words",
    [
        (_without("expected"), "lacks .'expected'."),
        (_set("colour", 1), "unknown .'colour'."),
        (_set("flags", ["NO_SUCH"]), "needs flags out of the notes"),
        (_set("who_is_right", "peer"), "valid and oracle, or both policy"),
        (_twice, "two vectors are called"),
        (_unused, "no vector uses .'IDLE'."),
        (_thin_note, "needs class, effect, reference"),
        (lambda document: document.update(schema=2), "schema 2"),
    ],
)
def test_vector_schema_refuses(spoil, words):
    document = copy.deepcopy(_document())
    check(document)
    spoil(document)
    with pytest.raises(ValueError, match=words):
        check(document)


def test_vector_tensor_words():
    assert tensor({"type": "i8", "hex": "81 7f"}).tolist() == [-127, 127]
    assert tensor({"type": "bf16", "hex": "3f80*3"}).tolist() == [1.0] * 3
    with pytest.raises(ValueError, match="has 3 digits; u8 has 2"):
        tensor({"type": "u8", "hex": "123"})
    with pytest.raises(ValueError, match="is no tensor"):
        tensor({"type": "fp8", "hex": "12"})

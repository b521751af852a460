"""Every disagreement that a vector records still stands, with the peers installed."""

import gfloat
import gfloat.formats
import ml_dtypes
import numpy
import pytest
import torch
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import to_mx
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from oracle.layouts.nibbles import pack, unpack
from oracle.vectors import load

_ML_DTYPES = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "bf16": ml_dtypes.bfloat16,
}


def _run_ml_dtypes(vector):
    kind = _ML_DTYPES[vector.arguments["name"]]
    with numpy.errstate(all="ignore"):
        codes = vector.inputs["values"].numpy().astype(kind)
    wide = codes.dtype.itemsize == 2
    return {"codes": torch.from_numpy(codes.view(numpy.int16 if wide else numpy.uint8))}


def _run_torch(vector):
    kind, bits = {
        "e8m0": (torch.float8_e8m0fnu, torch.uint8),
        "bf16": (torch.bfloat16, torch.int16),
    }[vector.arguments["name"]]
    return {"codes": vector.inputs["values"].to(kind).view(bits)}


def _run_gfloat(vector):
    info = gfloat.formats.format_info_ocp_int8
    values = vector.inputs["values"].double().numpy()
    rounded = gfloat.round_ndarray(info, values, sat=True)
    codes = gfloat.encode_ndarray(info, rounded).astype(numpy.uint8)
    return {"codes": torch.from_numpy(codes.view(numpy.int8))}


def _run_torchao(vector):
    family, _, recipe = vector.arguments["format"].partition(":")
    recipe = recipe.removeprefix("torchao_").upper()
    rule = "RCEIL" if recipe == "CUBLAS_TE" else recipe
    element = torch.float8_e4m3fn if "8" in family else torch.float4_e2m1fn_x2
    scales, codes = to_mx(
        vector.inputs["x"][None], element, 32, ScaleCalculationMode[rule]
    )
    codes = codes.view(torch.uint8)
    codes = unpack(codes) if family == "mxfp4" else codes
    return {"scales": scales.view(torch.uint8)[0], "codes": codes[0]}


def _run_transformers(vector):
    blocks = pack(vector.inputs["codes"])[None, None, None]
    values = convert_moe_packed_tensors(
        blocks, vector.inputs["scales"][None, None], dtype=torch.bfloat16
    )
    return {"values": values.flatten().double()}


RUNNERS = {
    "ml_dtypes": _run_ml_dtypes,
    "torch": _run_torch,
    "gfloat": _run_gfloat,
    "torchao": _run_torchao,
    "transformers": _run_transformers,
}
#: Recorded from sources that are not installable packages here.
RECORDED = {"microxcaling", "compressed_tensors", "modelopt"}
CASES = [
    pytest.param(vector, peer, id=f"{vector.id}-{peer}")
    for name in ("formats", "blocks")
    for vector in load(name)
    for peer in vector.peers
    if peer not in RECORDED
]


@pytest.mark.parametrize("vector,peer", CASES)
def test_vector_peer_answers_as_recorded(vector, peer):
    answer = RUNNERS[peer](vector)
    for name, recorded in vector.peers[peer].items():
        assert torch.equal(answer[name], recorded), (answer[name], recorded)


def test_vector_runners_are_all_used():
    assert {case.values[1] for case in CASES} == set(RUNNERS)

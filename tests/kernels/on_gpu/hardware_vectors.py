"""Vectors out of what was measured: `python3 .../hardware_vectors.py MEASURED.json`.

Writes oracle/vectors/NAME.json: for each type of operands, dot products with their
exact sum to nearest and the bits of every instruction, beside the model found of it;
arguments and bits of elementary functions; codes of torch's casts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE.parent), str(ROOT)]

import torch  # noqa: E402
from on_gpu.hardware_functions import reference  # noqa: E402
from on_gpu.hardware_operands import KINDS  # noqa: E402
from on_gpu.hardware_rows import exact_sum, rows, signed  # noqa: E402
from on_gpu.hardware_units import UNITS  # noqa: E402

from oracle import formats  # noqa: E402

Vector = dict[str, Any]
STORED = {
    "bf16": "bf16", "fp16": "fp16", "tf32": "fp32", "e4m3": "u8", "e5m2": "u8",
    "s8": "i8", "fp32": "fp32", "int32": "i32",
}  # fmt: skip
_DIGITS = {
    "u8": 2, "i8": 2, "i16": 4, "bf16": 4, "fp16": 4, "fp32": 8, "i32": 8,
}  # fmt: skip
_CASTS = {"e4m3": "u8", "e5m2": "u8", "e8m0": "u8", "bf16": "i16", "fp16": "i16"}
NOTES = {
    "UNIT": {
        "class": "arithmetic of a matrix unit",
        "effect": "terms of a step are cut to fraction bits below the largest, their "
        "exact sum is cut or rounded to what the unit keeps",
    },
    "EXACT": {
        "class": "sums of integers",
        "effect": "none: products and sums are exact",
    },
    "APPROXIMATION": {
        "class": "an elementary function that approximates",
        "effect": "results differ from the nearest value by what the function allows",
    },
    "SUBNORMAL_SCALE": {
        "class": "a conversion that rounds subnormal values as if zero were a code",
        "effect": "E8M0 of values between 2^-127 and 1.5 2^-127 is 2^-126",
    },
    "CAST": {
        "class": "conversion to a narrow type",
        "effect": "overflow saturates or not, NaN keeps its sign or not",
    },
}


def dots(units: dict[str, Any], kinds: Sequence[str], ending: str) -> list[Vector]:
    """One vector for each pair of types: all instructions on the same operands."""
    vectors = []
    pairs = dict.fromkeys((unit.operand, unit.result) for unit in UNITS)
    for operand, result in pairs:
        own = [u for u in UNITS if (u.operand, u.result) == (operand, result)]
        every = {u.name: rows(u, units[u.name], kinds) for u in own}
        operands = [row[:3] for row in every[own[0].name]]
        exact = [exact_sum(own[0], *row) for row in operands]
        x, y = ([code for row in operands for code in row[i]] for i in (0, 1))
        c = [row[2] for row in operands]
        stored, sums = STORED[operand], STORED[result]
        peers = {
            name: {"sum": _tensor(sums, [row[3] for row in made])}
            for name, made in every.items()
        }
        right = _tensor(sums, exact)
        whole = all(peer["sum"] == right for peer in peers.values())
        vectors.append(
            {
                "id": f"dot-{operand}-{result}{ending}",
                "operation": "dot",
                "arguments": {
                    "operand": operand, "result": result, "depth": own[0].depth,
                    "kinds": list(kinds),
                    "models": {u.name: units[u.name]["model"] for u in own},
                },
                "inputs": {
                    "x": _tensor(stored, x), "y": _tensor(stored, y),
                    "c": _tensor(sums, c),
                },
                "expected": {"sum": right},
                "result": "valid" if whole else "policy",
                "flags": ["EXACT" if whole else "UNIT"],
                "who_is_right": "oracle" if whole else "policy",
                "peers": {} if whole else peers,
            }
        )  # fmt: skip
    return vectors


def functions(measured: dict[str, Any]) -> list[Vector]:
    """One vector for each elementary function."""
    vectors = []
    for name, found in measured.items():
        pairs = {int(x, 16): int(y, 16) for x, y in found["samples"].items()}
        steps = enumerate(found["every 2^17th of [1, 2)"])
        pairs |= {0x3F800000 + (i << 17): int(y, 16) for i, y in steps}
        x = torch.tensor([signed(p, 32) for p in pairs], dtype=torch.int32)
        nearest = reference(name)(x.view(torch.float32).double()).float()
        bits = nearest.view(torch.int32).masked_fill(nearest.isnan(), 0x7FFFFFFF)
        codes = [code & 0xFFFFFFFF for code in bits.tolist()]
        worst = max(error for error, _ in found["ulps by exponent"].values())
        counts = ("not nearest", "flushed", "other infinities or NaNs")
        vectors.append(
            {
                "id": f"function-{name}",
                "operation": "function",
                "arguments": {
                    "name": name, "ulps": worst,
                    **{label: found[label] for label in counts},
                    "sha256": found["sha256 of a binade's bits"],
                },
                "inputs": {"x": _tensor("fp32", pairs)},
                "expected": {"y": _tensor("fp32", codes)},
                "result": "policy",
                "flags": ["APPROXIMATION"],
                "who_is_right": "policy",
                "peers": {"gpu": {"y": _tensor("fp32", pairs.values())}},
            }
        )  # fmt: skip
    return vectors


def casts(measured: dict[str, Any]) -> list[Vector]:
    """One vector for each of torch's casts: the oracle's codes, not saturating."""
    vectors = []
    for title, found in measured.items():
        name = title.removeprefix("cast to ")
        policies = {key: found[key] for key in ("saturating", "not saturating")}
        pairs = {int(x, 16): int(y, 16) for x, y in found["samples"].items()}
        for entry in policies.values():
            for pattern, _, torch_code, _ in entry["ends"]:
                pairs[int(pattern, 16)] = int(torch_code.removeprefix("torch "), 16)
        x = torch.tensor([signed(p, 32) for p in pairs], dtype=torch.int32)
        values, stored = x.view(torch.float32), _CASTS[name]
        codes = formats.encode(values, name, saturate=False).tolist()
        mask = (1 << 4 * _DIGITS[stored]) - 1
        codes = [code & mask for code in codes]
        agreed = [key for key, entry in policies.items() if not entry["numbers"]]
        vectors.append(
            {
                "id": f"cast-{name}",
                "operation": "encode",
                "arguments": {
                    "name": name, "saturate": False,
                    "policy": agreed[-1] if agreed else None,
                    **{key: _runs(entry) for key, entry in policies.items()},
                },
                "inputs": {"values": _tensor("fp32", pairs)},
                "expected": {"codes": _tensor(stored, codes)},
                # With a policy of its own, torch differs in the signs of NaNs alone.
                "result": "policy" if agreed else "valid",
                "flags": ["CAST" if agreed else "SUBNORMAL_SCALE"],
                "who_is_right": "policy" if agreed else "oracle",
                "peers": {"torch": {"codes": _tensor(stored, pairs.values())}},
            }
        )  # fmt: skip
    return vectors


def _runs(entry: dict[str, Any]) -> dict[str, Any]:
    """How many patterns differ, and where runs of them start and end."""
    ends, state = [], "agrees"
    for pattern, now, *_ in entry["ends"]:
        if now != state:
            ends.append(pattern)
        state = now
    return {"numbers": entry["numbers"], "nans": entry["nans"], "runs": ends}


def _tensor(stored: str, codes: Any) -> dict[str, str]:
    digits = _DIGITS[stored]
    return {"type": stored, "hex": " ".join(f"{code:0{digits}x}" for code in codes)}


def document(measured: dict[str, Any]) -> dict[str, Any]:
    """The vectors of one measurement."""
    machine = measured["machine"]
    reference = f"measured: {machine['gpu']}, torch {machine['torch']}"
    single = [kind for kind in KINDS if kind != "chained"]
    vectors = [
        *dots(measured["units"], single, ""),
        *dots(measured["units"], ["chained"], "-chained"),
        *functions(measured["functions"]),
        *casts(measured["casts"]),
    ]
    used = {flag for vector in vectors for flag in vector["flags"]}
    notes = {n: note | {"reference": reference} for n, note in NOTES.items()}
    return {
        "schema": 1,
        "about": f"What {machine['gpu']} computes: expected is the nearest value.",
        "notes": {name: note for name, note in notes.items() if name in used},
        "vectors": vectors,
    }


def main() -> None:
    """Write the vectors of one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measured", type=Path)
    parser.add_argument("--to", type=Path, default=ROOT / "oracle" / "vectors")
    options = parser.parse_args()
    made = document(json.loads(options.measured.read_text()))
    lines = ",\n  ".join(json.dumps(vector) for vector in made.pop("vectors"))
    head = json.dumps(made, indent=1)[:-2]
    text = f'{head},\n "vectors": [\n  {lines}\n ]\n}}\n'
    (options.to / options.measured.name).write_text(text)


if __name__ == "__main__":
    main()

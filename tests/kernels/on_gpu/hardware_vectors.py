"""Vectors out of what was measured: `python3 .../hardware_vectors.py MEASURED.json`.

Writes oracle/vectors/NAME.json: for each type of operands, dot products with their
exact sum to nearest and the bits of every instruction, beside the model found of it;
arguments and bits of elementary functions; codes of torch's casts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE.parent), str(ROOT)]

import torch  # noqa: E402
from on_gpu.hardware_functions import reference  # noqa: E402
from on_gpu.hardware_operands import KINDS, random  # noqa: E402
from on_gpu.hardware_units import UNITS, Unit  # noqa: E402

from oracle import formats  # noqa: E402
from oracle.scalar import elements  # noqa: E402

Vector = dict[str, Any]
#: Dot products of each kind that become vectors.
SAMPLES = 20
STORED = {
    "bf16": "bf16", "fp16": "fp16", "tf32": "fp32", "e4m3": "u8", "e5m2": "u8",
    "s8": "i8", "fp32": "fp32", "int32": "i32",
}  # fmt: skip
_DIGITS = {"u8": 2, "i8": 2, "bf16": 4, "fp16": 4, "fp32": 8, "i32": 8}
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
    "CAST": {
        "class": "conversion to a narrow type",
        "effect": "overflow saturates or not, NaN keeps its sign or not",
    },
}


def exact_sum(unit: Unit, x: list[int], y: list[int], c: int) -> int:
    """The code nearest to the exact c + x y; NaN is all ones."""
    if unit.operand == "s8":
        pairs = zip(x, y, strict=True)
        total = sum(_signed(a, 8) * _signed(b, 8) for a, b in pairs)
        return total + c & 0xFFFFFFFF
    terms: list[Fraction | float] = [elements.decode(c, unit.result)]
    for a, b in zip(x, y, strict=True):
        left, right = _value(a, unit.operand), _value(b, unit.operand)
        both = isinstance(left, Fraction) and isinstance(right, Fraction)
        terms.append(left * right if both else float(left) * float(right))
    special = [t for t in terms if isinstance(t, float) and not math.isfinite(t)]
    total = sum(special) if special else sum(Fraction(t) for t in terms)
    code = elements.encode(total, unit.result, saturate=False)
    bits = 16 if unit.result == "fp16" else 32
    return (1 << bits - 1) - 1 if total != total else code


def _signed(code: int, bits: int) -> int:
    return code - (code >> bits - 1 << bits)


def _value(code: int, operand: str) -> Fraction | float:
    if operand == "tf32":
        return elements.decode(code & ~0x1FFF, "fp32")
    return elements.decode(code, operand)


def dots(units: dict[str, Any], kinds: Sequence[str], ending: str) -> list[Vector]:
    """One vector for each pair of types: samples of `kinds`, all instructions."""
    vectors = []
    pairs = dict.fromkeys((unit.operand, unit.result) for unit in UNITS)
    for operand, result in pairs:
        own = [u for u in UNITS if (u.operand, u.result) == (operand, result)]
        own = [u for u in own if all(k in units[u.name]["random"] for k in kinds)]
        if not own:
            continue
        x, y, c, exact = [], [], [], []
        for kind in kinds:
            # Operands are a function of their number alone.
            given = random(operand, result, own[0].depth, kind, SAMPLES)
            rows = [t.tolist() for t in given]
            exact += [exact_sum(own[0], *row) for row in zip(*rows, strict=True)]
            x += [code for row in rows[0] for code in row]
            y += [code for row in rows[1] for code in row]
            c += rows[2]
        stored, sums = STORED[operand], STORED[result]
        peers = {
            unit.name: {"sum": _tensor(sums, _sampled(units[unit.name], kinds))}
            for unit in own
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


def _sampled(unit: dict[str, Any], kinds: Sequence[str]) -> list[int]:
    """The bits that were kept, kind by kind."""
    return [
        int(bits, 16)
        for kind in kinds
        for bits in unit["random"][kind]["bits"][:SAMPLES]
    ]


def functions(measured: dict[str, Any]) -> list[Vector]:
    """One vector for each elementary function."""
    vectors = []
    for name, found in measured.items():
        pairs = {int(x, 16): int(y, 16) for x, y in found["samples"].items()}
        steps = enumerate(found["every 2^17th of [1, 2)"])
        pairs |= {0x3F800000 + (i << 17): int(y, 16) for i, y in steps}
        x = torch.tensor([_signed(p, 32) for p in pairs], dtype=torch.int32)
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
    for name, found in measured.items():
        pairs = {int(x, 16): int(y, 16) for x, y in found["samples"].items()}
        x = torch.tensor([_signed(p, 32) for p in pairs], dtype=torch.int32)
        codes = formats.encode(x.view(torch.float32), name, saturate=False).tolist()
        stored = _CASTS[name]
        mask = (1 << 4 * _DIGITS.get(stored, 4)) - 1
        same = [code & mask for code in codes] == list(pairs.values())
        policies = {key: found[key] for key in ("saturating", "not saturating")}
        agreed = [key for key, entry in policies.items() if not entry["numbers"]]
        vectors.append(
            {
                "id": f"cast-{name}",
                "operation": "encode",
                "arguments": {
                    "name": name, "saturate": False,
                    "policy": agreed[-1] if agreed else None, **policies,
                },
                "inputs": {"values": _tensor("fp32", pairs)},
                "expected": {"codes": _tensor(stored, [c & mask for c in codes])},
                "result": "valid" if same else "policy",
                "flags": ["CAST"],
                "who_is_right": "oracle" if same else "policy",
                "peers": {}
                if same
                else {"torch": {"codes": _tensor(stored, pairs.values())}},
            }
        )  # fmt: skip
    return vectors


def _tensor(stored: str, codes: Any) -> dict[str, str]:
    digits = _DIGITS.get(stored, 4)
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

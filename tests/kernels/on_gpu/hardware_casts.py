"""torch's own casts to narrow types, against the oracle, over all fp32 patterns."""

from __future__ import annotations

from typing import Any

import torch

from oracle import formats

CASTS = {
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "e8m0": torch.float8_e8m0fnu,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
#: Patterns at a time, and the most ends of runs of differences that are listed.
_CHUNK, _LISTED = 1 << 26, 48
#: Patterns whose codes are kept: NaNs, infinities, limits and ties of each type.
SAMPLES = (
    0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7F800000, 0xFF800000, 0x00000000,
    0x80000000, 0x43E00000, 0x43E7FFFF, 0x43E80000, 0x43E80001, 0x43F00000, 0xC3E80001,
    0x47600000, 0x476FFFFF, 0x47700000, 0xC7700000, 0x7F000000, 0x7F3FFFFF, 0x7F400000,
    0x7F7FFFFF, 0x477FE000, 0x477FEFFF, 0x477FF000, 0x7F7F7FFF, 0x7F7F8000, 0x3F800000,
    0x3FC00000, 0x3FBFFFFF, 0xBF800000, 0x00000001, 0x00400000, 0x00200000, 0x00800000,
    0x3A800000, 0x3A800001, 0x3B000000, 0x37000000, 0x37000001, 0x33000000, 0x33000001,
)  # fmt: skip


def measure(name: str, patterns: int = 1 << 32) -> dict[str, Any]:
    """How torch's cast differs from each policy of the oracle on fp32 patterns."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    digits = CASTS[name].itemsize * 2
    found: dict[str, Any] = {
        policy: {"numbers": 0, "nans": 0, "ends": []}
        for policy in ("saturating", "not saturating")
    }
    for start in range(0, patterns, _CHUNK):
        chunk = torch.arange(start, min(start + _CHUNK, patterns), device=device)
        values = _values(chunk)
        got, is_nan = _codes(values.to(CASTS[name])), values.isnan()
        for policy, entry in found.items():
            encoded = formats.encode(values, name, saturate=policy == "saturating")
            want = _codes(encoded)
            wrong = _one_nan(got, name) != _one_nan(want, name)
            entry["numbers"] += int((wrong & ~is_nan).sum())
            entry["nans"] += int((wrong & is_nan).sum())
            ends = wrong[1:] ^ wrong[:-1]
            places = [0] * bool(wrong[0]) + (ends.nonzero()[:_LISTED, 0] + 1).tolist()
            for at in places[: _LISTED - len(entry["ends"])]:
                entry["ends"].append(
                    [
                        f"{start + at:08x}", "differs" if wrong[at] else "agrees",
                        f"torch {int(got[at]):0{digits}x}",
                        f"oracle {int(want[at]):0{digits}x}",
                    ]
                )  # fmt: skip
    codes = _codes(_values(torch.tensor(SAMPLES, device=device)).to(CASTS[name]))
    found["samples"] = {
        f"{pattern:08x}": f"{code:0{digits}x}"
        for pattern, code in zip(SAMPLES, codes.tolist(), strict=True)
    }
    return found


def _values(patterns: torch.Tensor) -> torch.Tensor:
    signed = patterns - (patterns >> 31 << 32)
    return signed.to(torch.int32).view(torch.float32)


def _codes(values: torch.Tensor) -> torch.Tensor:
    """The bits of values of a narrow type, as i32 that are not negative."""
    narrow = values.element_size() == 1
    codes = values.view(torch.uint8 if narrow else torch.int16).to(torch.int32)
    return codes & (0xFF if narrow else 0xFFFF)


def _one_nan(codes: torch.Tensor, name: str) -> torch.Tensor:
    """Codes with every NaN the same."""
    entry = formats.get(name)
    if name == "e8m0":
        return codes
    last = 0x7E if entry.infinity is None else entry.infinity
    sign = 1 << entry.bits - 1
    return codes.masked_fill((codes & sign - 1) > last, sign - 1)

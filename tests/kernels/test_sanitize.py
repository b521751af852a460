"""What the sanitizers' reports are read as: whose kernel, and what."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

LOG = """========= COMPUTE-SANITIZER
========= Uninitialized __global__ memory read of size 8 bytes
=========     at void at::native::gather<long, (int)2>(const T1 *)+0x2a0
=========     by thread (64,0,0) in block (8,0,0)
=========     Address 0x7fc2be98ec00
=========
========= Invalid __global__ write of size 4 bytes
=========     at void combine_rows<float, bf16>(const T1 *, T2 *)+0x40
=========     by thread (0,0,0) in block (0,0,0)
=========
========= Warning: Race reported between Read access at [clone void omni_staircase\
<float>(const T1 *)] void omni_route_staircase<float>(Board &)+0x4c
=========     and Write access at [clone void omni_staircase<float>(const T1 *)] \
void omni_route_staircase<float>(Board &)+0x52 [5732 hazards]
=========
========= ERROR SUMMARY: 3 errors
"""


def test_sanitize_counts_by_whose_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a finding of ours that is put down to PyTorch, or lost."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import sanitize

    ours, others = sanitize.findings(LOG)
    assert [name.split(" in ")[0] for name in ours] == [
        "Invalid __global__ write of size 4 bytes",
        "Warning: Race reported",
    ]
    assert sum(others.values()) == 1
    assert sanitize.findings("========= ERROR SUMMARY: 0 errors\n")[0] == {}
    sys.modules.pop("sanitize")

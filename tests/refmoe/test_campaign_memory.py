"""The processes of a campaign keep the memory that they began with."""

from __future__ import annotations

import pytest

from tests.refmoe.campaign_memory import Sample, flat, sampled

PORT = "refmoe.gallery.honest:sequential"


def test_flat_memory_is_told_from_memory_that_grows() -> None:
    """Catches a measurement that calls everything flat."""
    warm = [Sample(n, n, 100.0, 300.0 + min(n, 4)) for n in range(16)]
    assert flat(warm)
    assert not flat([*warm[:12], *(Sample(n, n, 100.0, 305.0) for n in range(4))])
    assert not flat([Sample(n, n, 100.0 + n, 300.0) for n in range(16)])
    with pytest.raises(ValueError, match="7 samples say nothing; run for longer"):
        flat(warm[:7])


@pytest.mark.long
def test_campaign_memory_is_flat() -> None:
    """Catches a cache without an end, in the worker or in the command."""
    options = ["-n", "1", "--in-process", "--study", "2"]
    assert flat(sampled([PORT, *options], minutes=8.0, every=5.0))

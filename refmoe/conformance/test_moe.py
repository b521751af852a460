"""Conformance of the op moe."""

from refmoe.conformance import Suite

test_moe = Suite(ops=("moe",))

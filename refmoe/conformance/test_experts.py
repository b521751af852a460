"""Conformance of the op experts."""

from refmoe.conformance import Suite

test_experts = Suite(ops=("experts",))

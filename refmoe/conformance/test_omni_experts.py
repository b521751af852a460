"""Conformance of the op omni_experts."""

from refmoe.conformance import Suite

test_omni_experts = Suite(ops=("omni_experts",))

"""Conformance of the op grouped_quantize."""

from refmoe.conformance import Suite

test_grouped_quantize = Suite(ops=("grouped_quantize",))

"""Conformance of the op dequantize."""

from refmoe.conformance import Suite

test_dequantize = Suite(ops=("dequantize",))

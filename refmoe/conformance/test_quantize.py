"""Conformance of the op quantize."""

from refmoe.conformance import Suite

test_quantize = Suite(ops=("quantize",))

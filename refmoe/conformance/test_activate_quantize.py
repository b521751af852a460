"""Conformance of the span activate+quantize."""

from refmoe.conformance import Suite

test_activate_quantize = Suite(ops=("activate+quantize",))

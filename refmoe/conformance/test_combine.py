"""Conformance of the op combine."""

from refmoe.conformance import Suite

test_combine = Suite(ops=("combine",))

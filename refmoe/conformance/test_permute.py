"""Conformance of the op permute."""

from refmoe.conformance import Suite

test_permute = Suite(ops=("permute",))

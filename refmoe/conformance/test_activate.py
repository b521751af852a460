"""Conformance of the op activate."""

from refmoe.conformance import Suite

test_activate = Suite(ops=("activate",))

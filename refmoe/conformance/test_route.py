"""Conformance of the op route."""

from refmoe.conformance import Suite

test_route = Suite(ops=("route",))

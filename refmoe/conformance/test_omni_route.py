"""Conformance of the op omni_route."""

from refmoe.conformance import Suite

test_omni_route = Suite(ops=("omni_route",))

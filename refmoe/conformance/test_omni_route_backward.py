"""Conformance of the op omni_route_backward."""

from refmoe.conformance import Suite

test_omni_route_backward = Suite(ops=("omni_route_backward",))

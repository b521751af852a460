"""The conformance tests that come with refmoe, one file for each op.

    REFMOE_IMPL=my_port pytest --pyargs refmoe.conformance

or, in the port's own repository, a file with

    from refmoe.conformance import Suite

    test_my_port = Suite("my_port")
"""

from __future__ import annotations

from refmoe.plugin.suite import Suite

__all__ = ["Suite"]

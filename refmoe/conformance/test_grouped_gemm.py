"""Conformance of the op grouped_gemm."""

from refmoe.conformance import Suite

test_grouped_gemm = Suite(ops=("grouped_gemm",))

"""An algebra on taps: every operation carries the value and how far it may stray."""

from oracle.bounds.accumulation import dot_error
from oracle.bounds.arithmetic import add, clamp, clamp_max, clamp_min, multiply
from oracle.bounds.elementary import divide, erf, exp, log1p, sigmoid, sqrt, tanh
from oracle.bounds.exactness import quanta_limit
from oracle.bounds.matmul import matmul
from oracle.bounds.quanta import quantum
from oracle.bounds.radius import by_rows, concatenate, constant, exactly, stack
from oracle.bounds.rounding import inexact, rounded
from oracle.bounds.total import scatter, total

__all__ = [
    "add", "by_rows", "clamp", "clamp_max", "clamp_min", "concatenate", "constant",
    "divide", "dot_error", "erf", "exactly", "exp", "inexact", "log1p", "matmul",
    "multiply", "quanta_limit", "quantum", "rounded", "scatter", "sigmoid", "sqrt",
    "stack", "tanh", "total",
]  # fmt: skip

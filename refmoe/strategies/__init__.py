"""Hypothesis strategies for cases: specifications, never tensors.

Every dimension of a case is drawn, sizes at the edges of tiles and buckets more often
than others; what is drawn is raised to the nearest case that can be built, so nothing
is thrown away. Each draw is an event (`--hypothesis-show-statistics`). What is simpler
comes first everywhere: a failing case shrinks to plain fields without a model, few
tokens, small sizes, dense memory.
"""

from refmoe.strategies.choices import MODELS
from refmoe.strategies.drawn import cases

__all__ = ["MODELS", "cases"]

"""What a programmer of GPU kernels gets wrong, as changes of a few tokens.

Of operators that make the same text the first one here counts.
"""

from fuzz.mutator.operators import parallel, control, places, values  # noqa: F401, I001
from fuzz.mutator.operators.registry import OPERATORS

__all__ = ["OPERATORS"]

"""What probably went wrong: known mistakes and neighbouring specifications, tried."""

from __future__ import annotations

from refmoe.diagnose.evidence import chosen
from refmoe.diagnose.explain import Cause, Evidence, explain
from refmoe.diagnose.hypothesis import Hypothesis
from refmoe.diagnose.known import HYPOTHESES

__all__ = ["HYPOTHESES", "Cause", "Evidence", "Hypothesis", "chosen", "explain"]

"""Routing: logits -> (ids, weights), and the set of selections that are right."""

from oracle.routing.admissible import Admissible
from oracle.routing.contest import Contest
from oracle.routing.router import Routed, route
from oracle.routing.weights import dense

__all__ = ["Admissible", "Contest", "Routed", "dense", "route"]

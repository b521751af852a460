"""A whole layer in plain torch, stage by stage; honest, readable and never fast.

It shares no numeric code with the oracle: written from the formulas on the usual torch
operations, so that an agreement of the two says something.
"""

from refmoe.gallery.plain.port import Plain

__all__ = ["Plain"]

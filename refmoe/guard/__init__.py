"""One launch's discipline: what a port is handed lies in memory that is watched.

Always on: every argument, output buffer and workspace stands between canaries in one
stretch of memory; arguments are compared with their originals after the call, bit by
bit, and so is what lies between their rows; buffers come poisoned; no two launches in a
row share an address, and what a launch leaves behind is poison for whoever kept a
pointer to it. Sampled by the case's seed, so that a repro has the same: which poison,
how far addresses are shifted, and on a GPU a stream of its own on which the inputs are
written late.
"""

from refmoe.guard.launch import Guards, Launch

__all__ = ["Guards", "Launch"]

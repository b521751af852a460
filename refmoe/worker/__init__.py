"""Where foreign code runs: in processes that may crash, hang or lie.

The judge's side is `Isolated`, a runner (`refmoe.worker.runner`). It has a process that
has loaded torch and forks workers (`nursery`), so that a dead one is replaced in
milliseconds; a worker (`child`) loads ports and rebuilds each problem from its case.
Frames of JSON and raw bytes in files go to and fro (`channel`), never pickles, never
expected values.
"""

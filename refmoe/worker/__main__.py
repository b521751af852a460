"""`python -m refmoe.worker CONTROL [PYTHONPATH]`, which the judge starts itself."""

from __future__ import annotations

import sys

from refmoe.worker.nursery import main

main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)

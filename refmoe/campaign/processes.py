"""Where the processes of a campaign come from: a server that has loaded all, and forks.

It loads while the command still looks at its options, and once for all processes. It
touches no GPU: each process opens the device for itself.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext


def server() -> ForkServerContext:
    """The context of the server, which is started now unless it runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["refmoe.campaign.stream"])
    forkserver.ensure_running()
    return context


def orphaned() -> bool:
    """Whether the command that asked for this process is gone."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()

"""Imports of optional packages: quiet, and with a remedy where one is missing."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import Any


def require(module: str, extra: str) -> Any:
    """`module`, imported; ImportError names the extra of refmoe that brings it.

    What packages log while they are imported (kernels for other machines that do not
    load, say) is no concern of a verdict and is not printed.
    """
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f"{package} is not installed; pip install 'refmoe[{extra}]' brings it"
        )
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module(module)
    finally:
        logging.disable(level)

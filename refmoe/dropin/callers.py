"""What a caller may hand a drop-in: tensors of so many axes, before anything else."""

from __future__ import annotations

import torch


def check_axes(call: str, axes: int, **given: object) -> None:
    """Raise for the first of the `given` arguments that is no tensor of `axes` axes.

    None stands for an argument that was left out. Raises TypeError for what is no
    tensor, ValueError for another number of axes.
    """
    for name, value in given.items():
        if value is None:
            continue
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"{call}: {name} is a {type(value).__name__}; give a torch.Tensor"
            )
        if value.ndim != axes:
            raise ValueError(
                f"{call}: {name} has shape {tuple(value.shape)}; give {axes} axes"
            )

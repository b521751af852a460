"""Whether the arguments of `cutlass_fused_moe` fit together, by its own names."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from oracle.params import Blocks
from refmoe.kernels.launchers.operands import Matrix

_CALL = "cutlass_fused_moe"


def check_rank(kind: str, rank: int, size: int) -> None:
    """Raise ValueError unless `rank` is one of `size`."""
    if not 0 <= rank < size:
        raise ValueError(
            f"{_CALL}: {kind}_rank={rank} must lie in 0..{kind}_size - 1 = {size - 1}"
        )


def check_shapes(
    tokens: int,
    choices: int,
    hidden: int,
    weights: tuple[Matrix, Matrix],
    scales: Sequence[torch.Tensor],
    *,
    gated: bool,
    **others: torch.Tensor | None,
) -> None:
    """Raise ValueError naming the first tensor whose shape the others do not admit.

    Shapes: weights: [E, 2I or I, hidden], [E, hidden, I]; `others` by their names

    Rows of fc1 say what E and I are, the tokens' tensors what T and k are.
    """
    experts, rows, _ = weights[0].shape
    if gated and rows % 2:
        raise ValueError(
            f"{_CALL}: fc1_expert_weights has {rows} rows, which hold no gate and up "
            "of one size; give 2I"
        )
    wanted: dict[str, tuple[object, tuple[int, ...]]] = {
        "fc1_expert_weights": (weights[0], (experts, rows, hidden)),
        "fc2_expert_weights": (weights[1], (experts, hidden, rows // (1 + gated))),
    }
    for number, matrix in enumerate(weights):
        if isinstance(matrix, Blocks):
            wanted[f"quant_scales[{number}]"] = (scales[number], _scales(matrix))
    forms = {
        "token_selected_experts": (tokens, choices),
        "token_final_scales": (tokens, choices),
        "fc1_expert_biases": (experts, rows), "fc2_expert_biases": (experts, hidden),
        "swiglu_alpha": (experts,), "swiglu_beta": (experts,),
        "swiglu_limit": (experts,),
    }  # fmt: skip
    wanted |= {name: (tensor, forms[name]) for name, tensor in others.items()}
    for name, (tensor, want) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != want:  # type: ignore[attr-defined]
            raise ValueError(
                f"{_CALL}: {name} has shape {tuple(tensor.shape)}; "  # type: ignore[attr-defined]
                f"beside the other tensors it must have {want}"
            )


def _scales(matrix: Blocks) -> tuple[int, ...]:
    """What the scales of one weight must be: one a row, or one a tile."""
    experts, rows, depth = matrix.shape
    if matrix.format.name == "int8_channel":
        return experts, rows
    height, width = matrix.format.block
    return experts, -(-rows // height), -(-depth // width)

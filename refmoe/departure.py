"""What a port may not declare: a layer of other tensors, or one that is nothing."""

from __future__ import annotations

from oracle.spec import Layer
from refmoe.judge import Judgement
from refmoe.verdict import Kind, Outcome, Verdict

#: What decides shapes and types of the tensors that a port gets and returns.
_TENSORS = (
    "hidden", "intermediate", "experts", "top_k", "gate_up_rows", "logits_columns",
    "weights", "dtype",
)  # fmt: skip


def other_tensors(model: Layer, declared: Layer) -> Judgement | None:
    """WRONG where a port declares a layer that its arguments are not those of.

    Another layer is other mathematics on the same tensors, never other tensors.
    """
    for name in _TENSORS:
        given, said = getattr(model, name), getattr(declared, name)
        if given != said:
            detail = (
                f"declares(layer) changes {name} from {_named(given)} to "
                f"{_named(said)}; it may change the mathematics, not the tensors"
            )
            return Judgement(Verdict(Kind.WRONG, detail=detail))
    return None


def _named(value: object) -> str:
    return str(getattr(value, "name", value))


def nothing(outcome: Outcome, deviation: Judgement | None) -> Judgement | None:
    """WRONG where a port returns zeros that only the layer it declares makes right."""
    if any(bool(result.any()) for result in outcome.outputs.values()):
        return None
    # A stage alone may differ where the model's results are zeros too.
    if deviation is None or not any(one.kind.failed for one in deviation.results):
        return None
    detail = (
        "every result is zero, as declared, where the model's is not: the layer that "
        "declares(layer) returns computes nothing"
    )
    return Judgement(Verdict(Kind.WRONG, detail=detail))

"""The oracle on CUDA tensors says what it says on CPU tensors."""

import pytest
import torch

from oracle.numerics import PRESETS
from refmoe.case import format_names, model_names
from refmoe.plan import cases, cells
from refmoe.problem import build, move
from refmoe.protocol import OPS
from refmoe.reference import trace

pytestmark = pytest.mark.gpu

OPS_WITH_TAPS = [name for name in OPS if not name.startswith("omni")]
#: Models and formats take turns: each is seen under one of these.
TURNS = ("randn", "exact", "heavy")


def radius(tap):
    """The worst case, zeros where there is none."""
    return torch.zeros_like(tap.value) if tap.worst is None else tap.worst


def on_cuda(problem):
    """The problem with every tensor on the GPU."""
    inputs = {name: move(value, "cuda") for name, value in problem.inputs.items()}
    return problem.but(params=move(problem.params, "cuda"), inputs=inputs)


@pytest.mark.parametrize("op", OPS_WITH_TAPS)
@pytest.mark.parametrize("regime", TURNS)
def test_oracle_agrees_across_devices(op, regime):
    checked = 0
    every = cells([op], model_names(), format_names(), [regime])
    for cell in every[TURNS.index(regime) :: len(TURNS)]:
        for case in cases(cell, 2):
            problem = build(case, PRESETS["reference"])
            here = trace(problem)
            there = trace(on_cuda(problem))
            assert list(here) == list(there)
            for name, tap in here.items():
                other = there[name]
                assert other.value.is_cuda, (str(case), name)
                got = other.value.cpu()
                if not tap.value.is_floating_point():
                    assert torch.equal(got, tap.value), (str(case), name)
                    continue
                nan = tap.value.isnan()
                assert torch.equal(got.isnan(), nan), (str(case), name)
                same = (got == tap.value) | nan
                gap = (got - tap.value).abs()
                inside = gap <= radius(tap) + radius(other).cpu()
                assert (same | inside).all(), (str(case), name)
            checked += 1
    assert checked

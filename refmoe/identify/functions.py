"""How far exp and sigmoid are off, where a router lets them through unrounded.

Beside a logit of 0, the softmax weight of a logit x <= -17 is exp(x) itself: the sum
rounds to 1. The sigmoid of a router that does not renormalise is its weight.
"""

from __future__ import annotations

import torch

from oracle.numerics import PRESETS, Elementary, Numerics, ulps
from refmoe.identify.box import Silent, bits
from refmoe.identify.identified import Evidence, Status
from refmoe.identify.router import EXPERTS, Router


def _points(last: float) -> torch.Tensor:
    """Numbers of eight bits from -86 to `last`, the closer the smaller."""
    bands = ((-86.0, -64.0, 0.5), (-64.0, -32.0, 0.25), (-32.0, last, 0.125))
    return torch.cat([torch.arange(*band) for band in bands])


def exponential(router: Router, declared: Numerics | None) -> Evidence:
    """The error of exp over [-86, -17]; raises Silent where the router hides it."""
    if router.routing.score != "softmax":
        raise Silent("no softmax router")
    x = _points(-17.0)
    logits = torch.full((len(x), EXPERTS), -400.0)
    logits[:, 0], logits[:, 1] = 0.0, x
    weights, _ = router(logits)
    got = weights[:, 1]
    if bool((got != got.float().double()).any()):
        # An fp64 sum rounds to 1 from exp(-37) on.
        x, got = x[x < -37.0], got[x < -37.0]
    return _measured("exp", router, x, got, x.double().exp(), declared)


def sigmoid(router: Router, declared: Numerics | None) -> Evidence:
    """The error of sigmoid over [-86, 16]; raises Silent where the router hides it."""
    if router.routing.score != "sigmoid" or router.routing.renormalize != "none":
        raise Silent("no sigmoid router without renormalisation")
    x = _points(16.0)
    logits = torch.full((len(x), EXPERTS), -400.0)
    logits[:, 1] = x
    weights, _ = router(logits)
    scale = router.routing.scale if router.routing.scale_on == "weights" else 1.0
    want = x.double().sigmoid()
    return _measured("sigmoid", router, x, weights[:, 1] / scale, want, declared)


def _measured(
    name: str,
    router: Router,
    x: torch.Tensor,
    got: torch.Tensor,
    want: torch.Tensor,
    declared: Numerics | None,
) -> Evidence:
    if not router.exact or bool((got == got.bfloat16().double()).all()):
        raise Silent("weights come rounded to 16 bits")
    if not bool(got.isfinite().all()):
        raise Silent("weights that come are not finite")
    error = (got - want).abs()

    def covers(entry: Elementary) -> bool:
        allowed = (entry.relative + entry.slope * x.double().abs()) * want
        return bool((error <= allowed + entry.absolute).all())

    stated = None if declared is None else getattr(declared, name)
    known = [getattr(Numerics(), name)]
    known += [getattr(numerics, name) for numerics in PRESETS.values()]
    known = sorted(dict.fromkeys(known), key=lambda entry: entry.relative)
    known = [entry for entry in known if covers(entry)]
    worst = int((error / want).argmax())
    count = float(error[worst] / want[worst]) * 2.0**23
    if stated is not None and covers(stated):
        value = stated
        status: Status = "agrees"
    else:
        default = getattr(Numerics(), name)
        value = default if default in known else (*known, ulps(count))[0]
        status = "observed" if stated is None else "contradicts"
    found = tuple(dict.fromkeys((value, *known)))
    return Evidence(
        name, value, found, router.case.op,
        f"{name}({bits(float(x[worst]))}), the worst of {len(x)}",
        f"{bits(float(got[worst]))}, {count:.2f} ulps of fp32 off",
        {"correctly rounded": bits(float(want[worst].float()))}, stated, status,
    )  # fmt: skip

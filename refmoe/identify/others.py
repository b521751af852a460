"""The other experiments: routers, quantisers, and what calls have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from oracle.numerics import Numerics
from oracle.spec import BlockFormat
from refmoe.case import Case, Value, format_of
from refmoe.identify import behaviour, choosing, functions, operands, scales
from refmoe.identify.box import Silent
from refmoe.identify.contest import Contest
from refmoe.identify.identified import Evidence
from refmoe.identify.laboratory import Laboratory
from refmoe.identify.router import Router, router

_SIGMOID: dict[str, Value] = {"routing.score": "sigmoid", "routing.renormalize": "none"}
_EPSILON: dict[str, Value] = {
    "routing.score": "sigmoid", "routing.renormalize": "sum_plus_epsilon",
    "routing.epsilon": 1e-20,
}  # fmt: skip
Measure = Callable[[Router, Numerics | None], Evidence]


def routing(lab: Laboratory) -> None:
    """Ties, rounding, the division by the sum, elementary functions."""
    found: list[Router] = []

    def choices() -> Iterator[Evidence]:
        found.append(router(lab.box))
        stated = lab.stated(found[0].case)
        yield from lab.settled(choosing.ties(found[0]), stated)
        yield from lab.settled(choosing.rounding(found[0]), stated)

    fields = ("ties", *choosing.ROUNDING)
    lab.attempt(fields, choices)
    if not found:
        reason = "it takes a router by top-k, which the port does not show"
        lab.leave_open(("exp", "sigmoid", "renormalize", "epsilon"), reason)
        return

    bound = ", ".join(lab.box.port.models)

    def measured(changes: dict[str, Value], measure: Measure) -> Iterator[Evidence]:
        if changes and bound:
            raise Silent(f"the port supports no layer but {bound}")
        own = router(lab.box, changes) if changes else found[0]
        yield measure(own, lab.declared(own.layer))

    def divided() -> Iterator[Evidence]:
        own = found[0]
        if own.routing.score == "softmax" and not bound:
            try:
                own = router(lab.box, _EPSILON)
            except Silent:
                own = found[0]
        yield from lab.settled(choosing.renormalising(own), lab.stated(own.case))

    lab.attempt(("exp",), partial(measured, {}, functions.exponential))
    lab.attempt(("sigmoid",), partial(measured, _SIGMOID, functions.sigmoid))
    lab.attempt(("renormalize", "epsilon"), divided)


def quantisers(lab: Laboratory) -> None:
    """Inside a layer, then as an op of its own, format by format."""

    def seen(point: str) -> Iterator[Evidence]:
        wired = operands.quantising(lab.box)
        form = getattr(lab.box.port.definition(wired.layer)[0], point)
        if not isinstance(form, BlockFormat):
            raise Silent(f"the port declares {point} in {form} there")
        contest = operands.seen(wired, form, point)
        yield from lab.settled(contest, lab.stated(wired.case))

    for point in ("activations", "requantize"):
        fields = (f"{point}.scale_rule", f"{point}.rounding")
        lab.attempt(fields, partial(seen, point))
    kinds: set[str] = set()
    for case in scales.formats(lab.box):
        lab.attempt((f"{case.format} bytes",), partial(_bytes, lab, case))
        form = format_of(str(case.format))
        assert isinstance(form, BlockFormat)
        if form.scale not in kinds:
            kinds.add(form.scale)
            lab.attempt((f"{case.format} nonfinite",), partial(_broken, lab, case))


def _bytes(lab: Laboratory, case: Case) -> Iterator[Evidence]:
    """The choices on ordinary blocks; given those, the ones that small blocks show."""
    asked = format_of(str(case.format))
    assert isinstance(asked, BlockFormat)
    form = asked
    for small in (False, True):
        contest = scales.contest(lab.box, case, small=small, form=form)
        stated = {name: getattr(asked, name) for name in contest.fields}
        for item in lab.settled(contest, stated, f"{case.format} "):
            form = replace(form, **{item.field: item.value})
            yield replace(item, field=f"{case.format} {item.field}")


def _broken(lab: Laboratory, case: Case) -> Iterator[Evidence]:
    form = format_of(str(case.format))
    assert isinstance(form, BlockFormat)
    # Under "error" the format leaves open what comes of such input.
    stated = {} if form.nonfinite == "error" else {"nonfinite": form.nonfinite}
    for item in lab.settled(scales.nonfinite(lab.box, case), stated):
        yield replace(item, field=f"{case.format} nonfinite")


def calls(lab: Laboratory) -> None:
    """Repetition, batches, numbers that are not finite, the order of rows."""
    found: list[behaviour.Call] = []

    def repeated() -> Iterator[Evidence]:
        found.append(behaviour.Call(lab.box))
        stated = lab.stated(found[0].case)
        yield from lab.settled(behaviour.deterministic(found[0], lab.varying), stated)

    def looked(experiment: Callable[[], Contest]) -> Iterator[Evidence]:
        yield from lab.settled(experiment(), lab.stated(found[0].case))

    if lab.attempt(("deterministic",), repeated):
        call = found[0]
        lab.attempt(
            ("batch_invariant",),
            partial(looked, partial(behaviour.batch_invariant, call)),
        )
        for name, value in (("nan", math.nan), ("infinity", math.inf)):
            lab.attempt(
                (name,), partial(looked, partial(behaviour.nonfinite, call, value))
            )

    def ordered() -> Iterator[Evidence]:
        case = Case("permute", H=1, I=1, E=4, k=2)
        yield from lab.settled(behaviour.stable(lab.box), lab.stated(case))

    lab.attempt(("stable",), ordered)

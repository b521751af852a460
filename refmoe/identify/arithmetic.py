"""The arithmetic of experts: how they add up, then each stage behind and between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from oracle.numerics import ACCUMULATORS, Numerics
from refmoe.case import Case
from refmoe.identify import behind, between, combining, operands, sums, tree, wires
from refmoe.identify.dots import SUMMANDS, dots
from refmoe.identify.identified import Evidence, Status
from refmoe.identify.laboratory import Laboratory
from refmoe.identify.sums import Sums

#: Fields that need no more than a dot product, and those of the stages around it.
ADDING = ("accumulate", "partial", "split_k", "subnormals")
STAGES = ("output", "combine_order", *behind.FIELDS)


def experiments(lab: Laboratory) -> None:
    """All of them; the later ones use what the earlier found."""
    known: list[Sums] = []

    def adding() -> Iterator[Evidence]:
        source = dots(lab.box)
        known.append(sums.examine(source))
        if not known[0].deterministic:
            lab.varying = f"of {SUMMANDS} products that cancel each"
        stated = lab.stated(source.case, known[0].compute)
        yield from _units(lab, known[0], stated)
        yield from _partial_sums(lab, known[0], stated)
        for item in lab.settled(operands.subnormals(source), stated):
            # Who may flush need not.
            wide = item.declared == "flush" and item.status == "contradicts"
            yield replace(item, status="wider") if wide else item

    def fusing() -> Iterator[Evidence]:
        source = dots(lab.box, "fp32")
        yield from lab.settled(operands.fma(source), lab.stated(source.case))

    lab.attempt(ADDING, adding)
    lab.attempt(("fma",), fusing)
    if not known:
        reason = "it takes dot products, which the port does not show"
        lab.leave_open(("dequantized", *STAGES, *between.FIELDS, "shared"), reason)
        return
    lab.attempt(("dequantized",), partial(_decoded, lab, known[0]))
    lab.attempt(STAGES, partial(_behind, lab, known[0]))
    lab.attempt(between.FIELDS, partial(_between, lab, known[0]))
    lab.attempt(("shared",), partial(_shared, lab, known[0]))


def _units(
    lab: Laboratory, found: Sums, stated: Mapping[str, Any]
) -> Iterator[Evidence]:
    """The matrix unit; one that keeps more bits than the declared one is "wider"."""
    if not found.units:
        text = ", ".join(f"{rule} at {width} bits" for width, rule in found.widths)
        lab.leave_open(["accumulate"], f"no unit that is known adds like this ({text})")
    else:
        declared = stated.get("accumulate")
        value = found.units[0]
        status: Status = "observed"
        if declared is not None:
            admitted = Numerics(accumulate=declared).units
            kept = ACCUMULATORS[value].out_fraction
            if any(unit.name in found.units for unit in admitted):
                value, status = declared, "agrees"
            elif all(unit.out_fraction < kept for unit in admitted):
                status = "wider"
            else:
                status = "contradicts"
        yield Evidence(
            "accumulate", value, found.units, found.op, found.given, found.output,
            {
                name: output
                for (name, kind), output in found.candidates.items()
                if kind == found.partial
            },
            declared, status,
        )  # fmt: skip
    if found.tree is not None:
        leaves = tree.leaves(found.tree)
        order = tree.described(found.tree)
        yield Evidence(
            "order of sums", order, (order,), found.op,
            f"masked units at all pairs of {len(leaves)} places",
            f"places {', '.join(map(str, leaves[:8]))} ... in this order",
        )  # fmt: skip


def _partial_sums(
    lab: Laboratory, found: Sums, stated: Mapping[str, Any]
) -> Iterator[Evidence]:
    """Partial sums that are rounded further than others.

    Those in the arithmetic's own type are an order like any other, so that a declared
    split of them is no more than wide.
    """
    if found.tree is None or not found.units:
        reason = "it takes a known unit, and an order that is the same in every call"
        return lab.leave_open(("partial", "split_k"), reason)
    kind = found.compute if found.partial == "none" else found.partial
    for name, value in (("partial", kind), ("split_k", found.splits)):
        own = stated.get(name)
        status: Status = "observed" if own is None else "agrees"
        if own not in (None, value):
            harmless = found.partial == "none" and stated["partial"] in ("fp32", "fp64")
            status = "wider" if harmless else "contradicts"
        yield Evidence(
            name, value, (value,), found.op, found.given, found.output,
            {
                kind: output
                for (unit, kind), output in found.candidates.items()
                if unit == found.units[0]
            },
            own, status,
        )  # fmt: skip


def _decoded(lab: Laboratory, adds: Sums) -> Iterator[Evidence]:
    contest = operands.decoded(lab.box, adds)
    case = Case("grouped_gemm", H=1, I=1, E=1, k=1)
    yield from lab.settled(contest, lab.stated(case, adds.compute))


def _behind(lab: Laboratory, adds: Sums) -> Iterator[Evidence]:
    wired = wires.wires(lab.box)
    stated = _of_layer(lab, wired, adds)
    own, output = stated.get("output"), wired.output
    value = None if output == wired.layer.dtype else output
    same = (own or wired.layer.dtype) == output
    status: Status = "agrees" if same else "contradicts"
    yield Evidence(
        "output", own if same and own else value, (value,), wired.case.op,
        f"a layer in {wired.layer.dtype}", f"results in {output}", {}, own,
        status if "output" in stated else "observed",
    )  # fmt: skip
    order = combining.examine(wired)
    if not order.deterministic:
        lab.varying = f"of masked units in {wired.layer.top_k} rows of a token"
    yield _order(wired, order, stated.get("combine_order"))
    yield from lab.settled(behind.contest(wired, order, adds, output), stated)


def _order(
    wired: wires.Wires, order: combining.Combining, declared: str | None
) -> Evidence:
    value = declared if declared in order.orders else order.orders[0]
    status: Status = "observed"
    if declared is not None:
        status = "agrees" if value == declared else "contradicts"
    last = order.trees[-1]
    shown = "another order in every call"
    if order.deterministic:
        shown = "no order that is a tree"
        if last is not None:
            shown = f"added as {', '.join(map(str, tree.leaves(last)))}"
    return Evidence(
        "combine_order", value, order.orders, wired.case.op,
        f"masked units in the rows of a token with experts {order.ids[-1]}",
        shown, {}, declared, status,
    )  # fmt: skip


def _between(lab: Laboratory, adds: Sums) -> Iterator[Evidence]:
    wired = wires.wires(lab.box)
    contest = between.contest(
        wired, adds, lab.value("gemm", "none"), lab.declared(wired.layer)
    )
    yield from lab.settled(contest, _of_layer(lab, wired, adds))


def _of_layer(lab: Laboratory, wired: wires.Wires, adds: Sums) -> dict[str, Any]:
    """What is declared for the wired layer: without a bias, a GEMM's result is rounded
    once for both of its points."""
    stated = lab.stated(wired.case, adds.compute)
    gemm = stated.get("gemm", "none")
    for point in ("down", "gate_up") if not wired.layer.expert_bias else ():
        if gemm != "none" and stated[point] == adds.compute:
            stated[point] = gemm
    return stated


def _shared(lab: Laboratory, adds: Sums) -> Iterator[Evidence]:
    wired = wires.wires(lab.box, shared=True)
    points = {name: lab.value(name, adds.compute) for name in ("down", "combine")} | {
        "gemm": lab.value("gemm", "none")
    }
    contest = behind.shared(wired, adds, points)
    yield from lab.settled(contest, lab.stated(wired.case, adds.compute))

"""The results of one call, op by op, against what the oracle says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product

import torch

from oracle.blocks import dequantize, grouped_dequantize
from oracle.numerics import Numerics
from oracle.operands import spans_rows
from oracle.params import Blocks
from oracle.trace import Tap, Trace
from refmoe.compare import compare, compare_bytes, outside, selection
from refmoe.problem import Problem
from refmoe.protocol import OPS
from refmoe.vacuity import sharpest, weighed
from refmoe.verdict import Kind, Outcome, Verdict

#: Selections of one token that are tried before it counts as undecided.
SELECTIONS = 64
#: Results whose zeros have a sign that no order of sums decides.
_SIGNED = ("values", "intermediate")

Oracle = Callable[..., Trace]
Given = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Call:
    """An outcome, what it answers, and what its port declares beside the numerics."""

    problem: Problem
    outcome: Outcome
    stable: bool
    signed_zeros: bool
    oracle: Oracle

    @property
    def numerics(self) -> Numerics:
        """The arithmetic that the result is judged in."""
        return self.problem.numerics

    def under(self, numerics: Numerics) -> Call:
        """The same outcome in another arithmetic."""
        return replace(self, problem=self.problem.but(numerics=numerics))

    def trace(self, **arguments: object) -> Trace:
        """The oracle's taps in the call's arithmetic."""
        return self.oracle(self.problem, **arguments)


def judged(call: Call, trace: Trace, given: Given) -> tuple[Verdict, ...]:
    """A verdict for each result; `trace` follows from the `given` stages."""
    got, op = call.outcome.outputs, call.problem.case.op
    if op == "route":
        return _route(call, got["ids"], got["weights"], trace)
    if op == "permute":
        return _permute(call, got["rows"], got["offsets"], trace)
    if op.rpartition("+")[2] in ("quantize", "grouped_quantize"):
        return _quantized(call.problem, got, trace)
    names = [field.name for field in OPS[op].results if field.name in trace]
    found = []
    for name in names:
        if name not in got:
            detail = f"the call returned no {name}"
            found.append(Verdict(Kind.WRONG, name, detail=detail))
            continue
        signed = call.signed_zeros and name in _SIGNED
        verdict = compare(
            name, trace[name], got[name], call.numerics, signed_zeros=signed
        )
        if op == "moe" and verdict.kind is Kind.WRONG and "ids" not in given:
            verdict = _other_selections(call, got[name], trace, verdict)
        found.append(
            _weighed(call, verdict, trace[name], got[name], {"given": dict(given)})
        )
    return tuple(found)


def _weighed(
    call: Call,
    verdict: Verdict,
    tap: Tap,
    got: torch.Tensor,
    arguments: Mapping[str, object],
) -> Verdict:
    """The verdict, but of a pass in a bound that admits zeros."""

    def sharp() -> Tap:
        return call.under(sharpest(call.numerics)).trace(**arguments)[verdict.tap]

    return weighed(verdict, tap, got, call.numerics, sharp)


def _quantized(problem: Problem, got: Given, trace: Trace) -> tuple[Verdict, ...]:
    """Bytes, and the global scale where there is one."""
    whole = got.get("global_scale")
    found = compare_bytes("", trace, got["codes"], got["scales"], whole)
    if found[0].kind is Kind.WRONG and problem.inputs["format"].nonfinite != "error":
        codes = _meant(problem, got, trace)
        found = compare_bytes("", trace, codes, got["scales"], whole)
    if "global_scale" in trace:
        name = "global_scale"
        if whole is None:
            detail = f"the call returned no {name}"
            found.append(Verdict(Kind.WRONG, name, detail=detail))
        else:
            found.append(compare(name, trace[name], whole, Numerics()))
    return tuple(found)


def _meant(problem: Problem, got: Given, trace: Trace) -> torch.Tensor:
    """The codes, the expected ones where both scales are NaN: none means anything."""
    form = replace(problem.inputs["format"], global_scale=False)
    offsets = problem.inputs.get("offsets")
    want, scales = trace["codes"].value, trace["scales"].value
    lost = torch.ones_like(want, dtype=torch.bool)
    for stored in (scales, got["scales"].view(scales.dtype)):
        blocks = Blocks(torch.zeros_like(want), stored, form)
        values = (
            dequantize(blocks)
            if offsets is None
            else grouped_dequantize(blocks, offsets)
        )
        lost &= values.isnan()
    return torch.where(lost, want, got["codes"].view(want.dtype))


def _route(
    call: Call, ids: torch.Tensor, weights: torch.Tensor, trace: Trace
) -> tuple[Verdict, ...]:
    """ids as an admissible set per token in any order; the weights of those ids."""
    choice = selection("ids", trace["ids"], ids)
    admissible = trace["ids"].admissible
    fine = torch.ones(len(ids), dtype=torch.bool)
    if admissible is not None:
        fine = admissible.contains(ids)
    rows = fine.nonzero().reshape(-1)
    own = {"rows": rows, "given": {"ids": ids[rows].long()}}
    tap, got = call.trace(**own)["weights"], weights[rows]
    verdict = compare("weights", tap, got, call.numerics)
    verdict = _weighed(call, verdict, tap, got, own)
    if verdict.index and len(rows) < len(ids):
        verdict = replace(
            verdict, index=(int(rows[verdict.index[0]]), *verdict.index[1:])
        )
    return choice, verdict


def _permute(
    call: Call, rows: torch.Tensor, offsets: torch.Tensor, trace: Trace
) -> tuple[Verdict, ...]:
    """Offsets exactly; rows up to the order inside an expert, unless it is stable."""
    edges = compare("offsets", trace["offsets"], offsets, Numerics())
    rows = rows.long()
    if not call.stable:
        counts = trace["offsets"].value.diff()
        owner = torch.arange(len(counts)).repeat_interleave(counts)
        by_slot = torch.sort(rows, stable=True).indices
        rows = rows[by_slot[torch.sort(owner[by_slot], stable=True).indices]]
    return edges, compare("rows", trace["rows"], rows, Numerics())


def _other_selections(
    call: Call, out: torch.Tensor, trace: Trace, verdict: Verdict
) -> Verdict:
    """Tokens with several admissible selections may match any of them."""
    if spans_rows(call.problem.layer, call.problem.params):
        return _other_wholes(call, out, verdict)
    admissible = trace["ids"].admissible
    if admissible is None:
        return verdict
    bad = outside(trace["out"], out, call.numerics).any(1)
    open_ = (bad & admissible.ambiguous).nonzero().reshape(-1).tolist()
    undecided, matched = [], []
    for token in open_:
        choices = admissible.selections(token, SELECTIONS)
        if choices is None:
            undecided.append(token)
            continue
        rows = torch.full((len(choices),), token)
        again = call.trace(rows=rows, given={"ids": choices})["out"]
        repeated = out[token].expand(len(choices), -1)
        if not bool(outside(again, repeated, call.numerics).any(1).all()):
            matched.append(token)
    if not matched and not undecided:
        return verdict
    rest = torch.ones(len(out), dtype=torch.bool)
    rest[matched + undecided] = False
    rows = rest.nonzero().reshape(-1)
    left = compare("out", trace["out"].map(lambda t: t[rows]), out[rows], call.numerics)
    if left.kind is Kind.WRONG:
        return replace(left, index=(int(rows[left.index[0]]), *left.index[1:]))
    kind = Kind.UNDECIDED if undecided else Kind.AMBIGUOUS
    detail = f"{len(matched)} tokens match another admissible selection"
    if undecided:
        detail += f"; {len(undecided)} have more than {SELECTIONS} of them"
    return replace(left, kind=kind, detail=detail)


def _other_wholes(call: Call, out: torch.Tensor, verdict: Verdict) -> Verdict:
    """Where a scale spans rows, a token's selection moves the others: all are tried."""
    problem = call.problem.but(sample=None)
    chosen = call.oracle(problem, upto="ids")["ids"]
    admissible, ids = chosen.admissible, chosen.value.long()
    if admissible is None:
        return verdict
    open_ = admissible.ambiguous.nonzero().reshape(-1)
    if not len(open_):
        return verdict
    count, choices = 1, []
    for token in open_.tolist():
        found = admissible.selections(token, SELECTIONS // count)
        if found is None or count * len(found) > SELECTIONS:
            detail = f"all tokens together have more than {SELECTIONS} selections"
            return replace(verdict, kind=Kind.UNDECIDED, detail=detail)
        count *= len(found)
        choices.append(found)
    for joint in product(*choices):
        again = call.trace(given={"ids": ids.index_copy(0, open_, torch.stack(joint))})
        left = compare("out", again["out"], out, call.numerics)
        if left.kind is not Kind.WRONG:
            detail = "matches other admissible selections of all tokens together"
            return replace(left, kind=Kind.AMBIGUOUS, detail=detail)
    return verdict

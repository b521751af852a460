"""Which cases a verification runs: small sizes that break tiles, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oracle.spec import BlockFormat
from refmoe.case import Case, format_of, model_of
from refmoe.fitting import fitted, takes_format
from refmoe.parse import parse
from refmoe.profiles import PROFILES, concerns, words
from refmoe.protocol import OPS
from refmoe.regimes import regime

#: T, H, I and load of the first cases, smallest first: single tokens, sizes that are no
#: multiple of 64, one expert with more than 64 rows, no token at all.
_SIZES = (
    (4, 64, 32, "uniform"),
    (17, 96, 160, "hot"),
    (1, 32, 96, "high"),
    (33, 160, 64, "half"),
    (0, 64, 64, "uniform"),
    (65, 64, 96, "hot"),
    (3, 384, 32, "uniform"),
    (129, 32, 32, "half"),
)
#: Experts per group of the router, or multiples of top_k where there are none.
_EXPERTS = (2, 3, 2, 4, 2, 3, 5, 2)
#: What a run without --model and --format covers.
DEFAULT_MODELS = (
    "mixtral-8x7b", "gpt-oss-120b", "qwen3-30b-a3b", "deepseek-v3", "deepseek-v4-flash",
)  # fmt: skip
DEFAULT_FORMATS = ("mxfp4", "mxfp8_e4m3", "nvfp4")
#: Fields of a profile's cases, where it does not give them.
_ORDINARY = {"T": "5", "H": "64", "I": "64", "E": "9", "k": "4"}
#: Rows of 32 columns and more that hold every scale byte, in the codes regime.
_TOKENS = 256
#: Limit at which sigmoid(alpha * gate) is 1 for every alpha in use.
_SATURATED_LIMIT = 64.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the report: an op, what it is applied to, and a regime.

    Its cases have ordinary structure and many sizes, or those of a `profile`.
    """

    op: str
    #: A model, a block format, or "-" where sizes alone decide.
    subject: str
    regime: str
    profile: str = ""

    @property
    def inputs(self) -> str:
        """What reports call its inputs: the profile, else the regime."""
        return self.profile or self.regime


def cells(
    ops: Sequence[str],
    models: Sequence[str],
    formats: Sequence[str],
    regimes: Sequence[str],
    *,
    confined: bool = False,
) -> list[Cell]:
    """Every cell of a run: layered ops for each model, quantising ones per format.

    The profiles come after all else, in the ordinary regime, or the first one given,
    where a case's words name none.
    `confined` leaves out regimes that suit other ops only.
    """
    found, structured = [], []
    for op in ops:
        if OPS[op].layered:
            subjects: Sequence[str] = models
        elif op == "grouped_quantize":
            # An expert's rows are no multiple of anything.
            subjects = [name for name in formats if _fits_any_rows(name)]
        else:
            subjects = formats if takes_format(op) else ("-",)
        rules = [
            name
            for name in regimes
            if not confined or not regime(name).suits or op in regime(name).suits
        ]
        found += [Cell(op, subject, rule) for subject in subjects for rule in rules]
        structured += [
            Cell(op, subject, "randn" if "randn" in rules else rules[0], profile)
            for profile in PROFILES
            if rules and words(profile, op)
            for subject in subjects
            if not OPS[op].layered or concerns(profile, op, subject)
        ]
    return found + structured


def cases(cell: Cell, count: int, seed: int = 0) -> Iterator[Case]:
    """The first `count` cases of a cell, each with a seed of its own.

    A run of one case of each leaves the profiles out.
    """
    if cell.profile and count == 1:
        return
    for number in range(count):
        if cell.profile:
            yield _structured(cell, number, seed + number)
            continue
        tokens, hidden, intermediate, load = _SIZES[number % len(_SIZES)]
        case = Case(
            cell.op,
            T=tokens,
            H=hidden,
            regime=cell.regime,
            load=load,
            seed=seed + number,
        )
        if OPS[cell.op].layered:
            if takes_format(cell.op):
                case = case.but(format=DEFAULT_FORMATS[number % len(DEFAULT_FORMATS)])
            yield _of_model(case, cell.subject, intermediate, number)
        elif takes_format(cell.op):
            yield _of_format(case, cell.subject, number)
        else:
            k = (1, 2, 4, 6, 8)[number % 5]
            factor = _EXPERTS[number % len(_EXPERTS)]
            yield fitted(case.but(E=factor * k + number % 2, k=k))


def _of_format(case: Case, name: str, number: int) -> Case:
    if case.op == "grouped_quantize":
        case = case.but(E=2 + number % 3, k=1 + number % 2)
    case = fitted(case.but(format=name))
    return case.but(T=max(case.T, _TOKENS)) if case.regime == "codes" else case


def _of_model(case: Case, model: str, intermediate: int, number: int) -> Case:
    """The model at small sizes; in the exact regime with k a power of two."""
    layer = model_of(model)
    k = min(layer.top_k, 8)
    if case.regime == "exact":
        k = 1 << (k.bit_length() - 1)
    factor = _EXPERTS[number % len(_EXPERTS)]
    groups = layer.routing.groups
    experts = factor * groups if groups > 1 else max(factor * k, 4) + number % 2
    if case.regime == "exact" and layer.activation.limit and number % 2:
        case = case.but(changes=(("activation.limit", _SATURATED_LIMIT),))
    if case.regime == "codes" and isinstance(layer.weights, str):
        case = case.but(weights=DEFAULT_FORMATS[number % len(DEFAULT_FORMATS)])
    experts = min(experts, layer.experts)
    return fitted(case.but(model=model, I=intermediate, E=experts, k=k))


def _structured(cell: Cell, number: int, seed: int) -> Case:
    """A case of the cell's profile; after the last one comes the first, drawn anew."""
    every = words(cell.profile, cell.op)
    given = dict(word.split("=") for word in every[number % len(every)].split())
    given = {**_ORDINARY, "regime": cell.regime, **given, "seed": str(seed)}
    case = parse(" ".join([cell.op, *(f"{key}={text}" for key, text in given.items())]))
    if OPS[cell.op].layered:
        return fitted(case.but(model=cell.subject))
    return fitted(case.but(format=cell.subject if takes_format(cell.op) else None))


def plain(case: Case) -> Case:
    """The case with weights and activations in the layer's own type, without blocks."""
    dtype, shared = case.layer.dtype, case.layer.shared
    changes = dict(case.changes)
    if shared is not None and shared.weights is not None:
        changes["shared.weights"] = None
    return case.but(
        weights=dtype, activations=dtype, requantize=dtype,
        changes=tuple(sorted(changes.items())),
    )  # fmt: skip


def _fits_any_rows(name: str) -> bool:
    form = format_of(name)
    return isinstance(form, BlockFormat) and (form.ragged or form.block[0] <= 1)

"""Which cases there are, which kernels each launches, and how long it takes."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

from fuzz.mutator.processes import Message, Pool, Task, Tell, in_order
from refmoe.guard import launch as guarded
from refmoe.kernels import launch
from refmoe.laws import LAWS
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.plan import DEFAULT_FORMATS, DEFAULT_MODELS, Cell, cells
from refmoe.port import spelt
from refmoe.regimes import REGIMES
from refmoe.schedule import heard, schedule
from refmoe.verify import Verifier

#: What is covered beside the defaults: each brings a policy that no other one has.
MODELS = (
    *DEFAULT_MODELS, "deepseek-v4-flash-hash", "phi-3.5-moe", "llama-4-scout",
    "gemma-4-26b-a4b", "grok-1", "nemotron-3-nano-30b", "longcat-flash", "minimax-m2",
    "ernie-4.5-21b", "jetmoe-8b", "inkling", "qwen2-moe-a2.7b", "step-3.7-flash",
    "deepseek-v2", "granite-3b-a800m", "kimi-k2-thinking",
)  # fmt: skip
FORMATS = (
    *DEFAULT_FORMATS, "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxint8", "mxfp4:ceil",
    "mxfp4:even", "mxfp8_e4m3:rceil", "mxfp4:quark", "mxfp8_e4m3:modelopt", "nvfp4:te",
    "nvfp4:te_2d", "nvfp4:flashinfer", "nvfp4:torchao", "nvfp4:modelopt",
    "nvfp4:torchao_single", "fp8_group_128", "fp8_group_128:vllm",
    "fp8_group_128:ue8m0", "fp8_block_128", "fp8_token", "fp8_channel", "fp8_tensor",
    "int8_token", "int8_token:torchao", "int8_channel", "int4_group_32",
    "int4_group_32:torchao", "int4_group_128",
)  # fmt: skip
#: Into how many parts each process' share of a survey is cut.
_PARTS = 3
#: Cycles for which a guard holds inputs back: no mutant is on a stream of its own, and
#: processes that share a GPU wait for each other.
_DELAY = 1_000_000


@dataclass(frozen=True, slots=True)
class Item:
    """One case of the plan, and what the unchanged kernels do with it."""

    case: str
    cell: tuple[str, str, str, str]
    launched: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    verdict: str = ""
    reported: bool = False

    @property
    def inputs(self) -> tuple[str, str]:
        """Op, and regime, profile or law."""
        return self.cell[0], self.cell[3] or self.cell[2]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is run: cases of a default cell, of any other, hearings of a law."""

    port: str
    cases: int
    others: int
    hearings: int
    ops: tuple[str, ...] = ()


def item_of(found: dict[str, Any]) -> Item:
    """The item that `asdict` made a dictionary of."""
    launched = tuple((file, expression) for file, expression in found["launched"])
    return Item(**{**found, "cell": tuple(found["cell"]), "launched": launched})


@contextmanager
def recorded() -> Iterator[set[tuple[str, str]]]:
    """Within it the file and expression of every kernel that is launched."""
    seen: set[tuple[str, str]] = set()
    call = launch.Kernel.__call__

    def noted(kernel: launch.Kernel, *arguments: Any, **keywords: Any) -> None:
        seen.add((kernel.file, kernel.expression))
        call(kernel, *arguments, **keywords)

    with patch.object(launch.Kernel, "__call__", noted):
        yield seen


def planned(plan: Plan) -> Iterator[Item]:
    """The cases of a plan; where there are several ways to run one they take turns."""
    port = load(plan.port)
    ops = plan.ops or tuple(port.ops)
    seen: set[str] = set()
    turns: Counter[str] = Counter()
    default = cells(ops, DEFAULT_MODELS, DEFAULT_FORMATS, tuple(REGIMES), confined=True)
    every = cells(ops, MODELS, FORMATS, tuple(REGIMES), confined=True)
    others = [cell for cell in every if cell not in set(default)]
    # Laws and others last: of equal cases the first counts.
    for _, cell, case in (
        *schedule([port], default, plan.cases),
        *schedule([port], others, plan.others),
        *heard([port], default, tuple(LAWS.values()), plan.hearings),
    ):
        if port.unsupported(case) is not None:
            continue
        tactics = (None,) if case.law is not None else port.tactics(case)
        tactic = tactics[turns[case.op] % len(tactics)] if tactics else None
        turns[case.op] += 1
        case = case if tactic is None else case.but(tactic=spelt(tactic))
        if str(case) not in seen:
            seen.add(str(case))
            yield Item(str(case), (cell.op, cell.subject, cell.regime, cell.profile))


@contextmanager
def brisk() -> Iterator[None]:
    """Within it guards hold inputs back for a shorter time."""
    with patch.object(guarded, "_DELAY", _DELAY):
        yield


def surveyed(plan: Plan, items: Sequence[Item], tell: Tell) -> None:
    """Judge the unchanged kernels on some items; each is told as it is done."""
    port, verifier = load(plan.port), Verifier()
    for item in items:
        tell({"at": item.case})
        start = time.perf_counter()
        case = parse(item.case, largest=None)
        with recorded() as seen, brisk():
            try:
                record = verifier.check(port, case, Cell(*item.cell))
            except ValueError:
                # The case cannot be built: its format takes no NaN, say.
                continue
        done = Item(
            item.case, item.cell, tuple(sorted(seen)),
            round(time.perf_counter() - start, 4), str(record.kind),
            record.kind.reported,
        )  # fmt: skip
        tell({"item": asdict(done)})


def survey(plan: Plan, pool: Pool) -> list[Item]:
    """The plan's items with what they launch; what never came back is left out."""

    def listing(tell: Tell) -> None:
        for item in planned(plan):
            tell({"item": asdict(item)})

    items = list(_items(pool.run(in_order(iter([("plan", listing)])))))
    # Every process gets of everything: none has all that is slow.
    count = max(1, min(len(items), pool.workers * _PARTS))
    chunks = [items[number::count] for number in range(count)]

    def task(chunk: Sequence[Item]) -> Task:
        return lambda tell: surveyed(plan, chunk, tell)

    named = [(f"chunk {n}", task(chunk)) for n, chunk in enumerate(chunks)]
    found = {item.case: item for item in _items(pool.run(in_order(iter(named))))}
    return [found[item.case] for item in items if item.case in found]


def _items(messages: Iterable[tuple[str, Message]]) -> Iterator[Item]:
    last: dict[str, str] = {}
    for name, message in messages:
        last[name] = message.get("at", last.get(name, ""))
        if "item" in message:
            yield item_of(message["item"])
        if "error" in message or message.get("ended", 0) != 0:
            print(f"survey: {name}: {message}, at {last[name]}", file=sys.stderr)


def by_kernel(items: Iterable[Item]) -> dict[tuple[str, str], list[Item]]:
    """The items that launch each kernel, all kinds of inputs in turns, cheap first."""
    groups: dict[tuple[str, str], dict[tuple[str, str], list[Item]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for item in sorted(items, key=lambda item: item.seconds):
        if not item.reported:
            for kernel in item.launched:
                groups[kernel][item.inputs].append(item)
    return {
        kernel: [
            group[number]
            for number in range(max(map(len, kinds.values())))
            for group in kinds.values()
            if number < len(group)
        ]
        for kernel, kinds in groups.items()
    }

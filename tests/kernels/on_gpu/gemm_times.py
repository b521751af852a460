"""How fast grouped GEMMs and experts are: every tactic, PyTorch's, the memory's floor.

`python3 tests/kernels/on_gpu/gemm_times.py --json FILE` alone: each tactic is checked
against the oracle's bounds before it is timed. `--emulate` tries it without a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    HERE = Path(__file__).resolve().parent
    sys.path[:0] = [str(HERE.parent), str(HERE.parents[2])]

import torch
from on_gpu.gemm_problems import (
    BF16,
    FORMATS,
    LOADS,
    MODELS,
    SMALL,
    Model,
    check,
    codes,
    floor,
    ids_of,
    offsets_of,
    repeated,
    torch_experts,
)
from on_gpu.place import Place
from on_gpu.times import Numbers, bandwidth, graph_time

from oracle.params import Params
from oracle.spec import Activation, Layer
from refmoe.kernels import cache, loader
from refmoe.kernels.launchers.experts import experts
from refmoe.kernels.launchers.gemm import Gemm
from refmoe.kernels.launchers.operands import Matrix
from refmoe.kernels.launchers.quantize import quantize
from refmoe.kernels.launchers.tactics import (
    EMULATED,
    FILE,
    Instruction,
    Tactic,
    tactics,
)
from refmoe.kernels.launchers.tensor_cores import tensor_cores

Timer = Callable[[Callable[[], object]], float]
Tactics = dict[str, Tactic]
#: Tactics that are timed under other formats.
_CODED = ("small", "medium", "huge")


@dataclass(frozen=True, slots=True)
class Timed:
    """Microseconds of one call by tactic, beside PyTorch's and the memory's floor."""

    model: str
    format: str
    op: str
    tokens: int
    load: str
    us: dict[str, float]
    torch: float | None = None
    floor: float | None = None

    def __str__(self) -> str:
        best = min(self.us.values())
        line = f"{self.model} {self.format} {self.op} T={self.tokens} {self.load}: "
        line += f"best {best:.0f}"
        for name, other in (("floor", self.floor), ("torch", self.torch)):
            if other is not None:
                line += f", {name} {other:.0f} ({other / best:.0%})"
        own = (f"{name}:{spent:.0f}" for name, spent in self.us.items())
        return f"{line} | {' '.join(own)}"


def plain(
    place: Place, model: Model, offered: Tactics, peak: float, timed: Timer
) -> Iterator[Timed]:
    """BF16: both GEMMs by every tactic and by PyTorch, then the whole experts."""
    device = place.device
    up, down = (
        torch.randn(model.count, *shape, device=device, dtype=BF16) / 64
        for shape in ((2 * model.width, model.hidden), (model.hidden, model.width))
    )
    layer = Layer(model.hidden, model.width, model.count, model.k)
    for tokens, load in LOADS if place.large else LOADS[:1]:
        ids = ids_of(model, tokens, load, device)
        offsets = offsets_of(ids, model.count)
        ends, said = offsets[1:].contiguous(), (tokens, load)
        fast = {
            name: tactic for name, tactic in offered.items()
            if tokens < 1024 or name != "small"
        }  # fmt: skip
        for op, w in (("gate_up", up), ("down", down)):
            x = torch.randn(ids.numel(), w.shape[2], device=device, dtype=BF16)
            gemm = Gemm(x, w, offsets, BF16)
            own = {n: timed(partial(tensor_cores, gemm, t)) for n, t in fast.items()}
            own["default"] = timed(partial(tensor_cores, gemm))
            peer = timed(partial(torch._grouped_mm, x, w.mT, ends))
            yield Timed(
                model.name, "bf16", op, *said, own, peer, floor(gemm, peak)
            )  # fmt: skip
        x = torch.randn(tokens, model.hidden, device=device, dtype=BF16)
        weights = torch.rand(tokens, model.k, device=device)
        call = partial(experts, x, ids, weights, Params(up, down), layer)
        own = {"default": timed(call)}
        if tokens == 4096:
            for name, tactic in fast.items():
                gemms = partial(tensor_cores, tactic=tactic)
                own[name] = timed(partial(call, tactic=gemms))
        order = ids.flatten().argsort(stable=True)
        peer = timed(partial(torch_experts, x, order, ends, up, down, model.k))
        yield Timed(model.name, "bf16", "experts", *said, own, peer)


def coded(
    place: Place, model: Model, offered: Tactics, peak: float, timed: Timer
) -> Iterator[Timed]:
    """Other formats: the first GEMM with SwiGLU, by a few tactics."""
    device = place.device
    for x_format, w_format in FORMATS:
        one = torch.randn(1, 2 * model.width, model.hidden, device=device, dtype=BF16)
        w = repeated(codes(one, w_format), model.count)
        for tokens in (16, 256, 4096) if place.large else (16,):
            ids = ids_of(model, tokens, "random", device)
            x = torch.randn(ids.numel(), model.hidden, device=device, dtype=BF16)
            rows: Matrix = x if x_format is None else quantize(x, x_format)
            starts = offsets_of(ids, model.count)
            gemm = Gemm(rows, w, starts, BF16, activation=Activation())
            own = {
                name: timed(partial(tensor_cores, gemm, offered[name]))
                for name in _CODED if tokens < 1024 or name != "small"
            }  # fmt: skip
            yield Timed(
                model.name, w_format, "gate_up", tokens, "random", own, None,
                floor(gemm, peak),
            )  # fmt: skip


def everything(
    place: Place, models: tuple[Model, ...], offered: Tactics, timed: Timer, peak: float
) -> Iterator[Timed]:
    """Checks, then times."""
    for model in models:
        check(place, model, None, offered)
        yield from plain(place, model, offered, peak, timed)
    for model in models:
        for formats in FORMATS:
            check(place, model, formats, {name: offered[name] for name in _CODED})
        yield from coded(place, model, offered, peak, timed)


def compile_all(target: str, offered: Tactics) -> None:
    """Every instance that is timed, side by side, into the disk cache."""
    bf16, e4m3, int8 = "Values<bf16>", "Bytes<element::e4m3>", "Bytes<element::int8>"
    kinds = {
        ("bf16", bf16, bf16, False): tuple(offered),
        ("bf16", bf16, "Nibbles", True): _CODED,
        ("bf16", e4m3, e4m3, True): _CODED,
        ("element::int8", int8, int8, True): _CODED,
    }
    wanted = []
    for kind, names in kinds.items():
        how = Instruction(*kind, 0)
        own = [offered[name].taken(how) for name in names]
        wanted += [t.kernel(how, c) for c in ("kPlain", "kSwiglu") for t in own]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: cache.fetch(FILE, (name,), target), wanted))


def grouped_gemms(place: Place) -> Numbers:
    """The BF16 GEMMs and experts of the first model."""
    target, peak = loader.target_for(place.device.index or 0), bandwidth(place)
    found = plain(place, MODELS[0], tactics(target), peak, _timed)
    return dict(str(row).split(": ", 1) for row in found)


def _timed(call: Callable[[], object]) -> float:
    return graph_time([call], replays=7)


def _once(call: Callable[[], object]) -> float:
    call()
    return 1.0


def main() -> None:
    """Check and time; prints a line as each measurement is done, writes JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write every number here")
    parser.add_argument(
        "--more", nargs="*", default=[], metavar="M,N,MT,NT,S",
        help="tactics besides: warps down, across, m16 and n8 tiles of a warp, stages",
    )  # fmt: skip
    parser.add_argument("--emulate", action="store_true", help="on the CPU, tiny")
    options = parser.parse_args()
    start = time.perf_counter()
    found: list[Timed] = []

    def measure(place: Place, models: tuple[Model, ...], timed: Timer) -> None:
        peak, target = 1e12, EMULATED
        if place.large:
            peak, target = bandwidth(place), loader.target_for(0)
        offered = tactics(target)
        offered |= {more: Tactic(*map(int, more.split(","))) for more in options.more}
        if place.large:
            compile_all(target, offered)
            print(f"copy {peak / 1e12:.3f} TB/s, compiled {_spent(start)}", flush=True)
        for row in everything(place, models, offered, timed, peak):
            found.append(row)
            print(row, flush=True)

    try:
        if options.emulate:
            from refmoe.kernels.emulator import emulated

            with emulated():
                measure(Place(torch.device("cpu"), False), SMALL, _once)
        else:
            measure(Place(torch.device("cuda", 0), True), MODELS, _timed)
    finally:
        print(_spent(start))
        if options.json:
            options.json.write_text(json.dumps([asdict(r) for r in found], indent=1))


def _spent(start: float) -> str:
    return f"{time.perf_counter() - start:.1f} s"


if __name__ == "__main__":
    main()

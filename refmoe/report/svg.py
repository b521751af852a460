"""The pictures of a finding as inline SVG, coloured by the page's style."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby

from refmoe.exhibit import Exhibit, Rung
from refmoe.report.markup import Markup, tag

#: Upper edges of error / bound for the classes h0, h1 ...; the last has none.
EDGES = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 10.0, 100.0, 1e4)
#: First class beyond the bound.
BEYOND = 5
_WIDTH = 384
_BARS = 64


def level(ratio: float) -> int:
    """The class of a ratio; no number counts as beyond everything."""
    return len(EDGES) if math.isnan(ratio) else bisect_left(EDGES, ratio)


def heat_map(exhibit: Exhibit) -> Markup:
    """Error / bound over the tap, rows down and columns to the right."""
    columns, rows = len(exhibit.grid[0]), len(exhibit.grid)
    size = _WIDTH / max(columns, 16)
    cells = []
    for y, row in enumerate(exhibit.grid):
        x = 0
        for name, run in groupby(map(level, row)):
            width = len(list(run))
            cells.append(
                tag(
                    "rect", class_=f"h{name}", x=_short(x * size), y=_short(y * size),
                    width=_short(width * size), height=_short(size),
                )
            )  # fmt: skip
            x += width
    shape = " x ".join(map(str, exhibit.shape))
    beyond = sum(level(ratio) >= BEYOND for row in exhibit.grid for ratio in row)
    words = f"error / bound over {exhibit.tap} [{shape}], largest {exhibit.worst:.3g}"
    patches = f"{beyond} of {rows * columns} patches are beyond the bound; rows go down"
    return _picture(words, patches, columns * size, rows * size, cells)


def load_chart(load: Sequence[int]) -> Markup:
    """Rows of each expert as bars; of many experts, the busiest of each few."""
    few = -(-len(load) // _BARS)
    bars = [max(load[n : n + few]) for n in range(0, len(load), few)]
    width, high = _WIDTH / len(bars), max(*bars, 1)
    shapes = [
        tag(
            "rect", class_="bar", x=_short(n * width + 0.5),
            y=_short(60 - 60 * count / high), width=_short(max(width - 1, 0.5)),
            height=_short(60 * count / high),
        )
        for n, count in enumerate(bars)
    ]  # fmt: skip
    idle = sum(count == 0 for count in load)
    words = f"rows of each of {len(load)} experts"
    detail = f"{sum(load)} rows, most {max(load)}, {idle} experts without any"
    return _picture(words, detail, _WIDTH, 61, shapes)


def ladder(rungs: Sequence[Rung]) -> Markup:
    """The stages in order: largest error / bound of each on a logarithmic scale."""
    height, left, right = 20, 150, 200
    shapes: list[Markup] = []
    first = next((r.tap for r in rungs if r.verdict and r.verdict.kind.failed), None)
    for n, rung in enumerate(rungs):
        y = n * height
        shapes.append(tag("text", rung.tap, x=0, y=y + 14))
        verdict = rung.verdict
        if verdict is None:
            shapes.append(tag("text", "not exposed", class_="dim", x=left, y=y + 14))
            continue
        ratio = math.inf if verdict.kind.failed else 0.0
        ratio = ratio if verdict.ratio is None else verdict.ratio
        width = right * _fraction(ratio)
        shapes.append(
            tag(
                "rect", class_=f"h{level(ratio)}", x=left, y=y + 4,
                width=_short(max(width, 1)), height=12,
            )
        )  # fmt: skip
        words = f"{verdict.kind}{', first divergence' if rung.tap == first else ''}"
        kind = "bad" if verdict.kind.failed else ""
        shapes.append(tag("text", words, class_=kind, x=left + right + 8, y=y + 14))
    edge = left + right * _fraction(1.0)
    bottom = len(rungs) * height
    shapes.append(tag("line", class_="bound", x1=edge, x2=edge, y1=0, y2=bottom))
    shapes.append(tag("text", "bound", class_="dim", x=edge + 4, y=bottom + 14))
    title = "stages in order, with their error / bound"
    words = f"first divergence: {first}" if first else "no exposed stage diverges"
    return _picture(title, words, 620, bottom + height, shapes)


def _fraction(ratio: float) -> float:
    """Where a ratio stands between 1e-3 and 1e3 on a logarithmic scale, 0 to 1."""
    if ratio <= 0:
        return 0.0
    return min(max(math.log10(min(ratio, 1e3)) / 6 + 0.5, 0.0), 1.0)


def _picture(
    title: str, detail: str, width: float, height: float, shapes: Sequence[Markup]
) -> Markup:
    """A figure whose caption says what the picture shows."""
    box = f"0 0 {_short(width)} {_short(max(height, 1))}"
    drawn = tag(
        "svg", shapes, viewBox=box, width=_short(width), height=_short(max(height, 1)),
        role="img", aria_label=f"{title}: {detail}",
    )  # fmt: skip
    return tag("figure", drawn, tag("figcaption", f"{title}: {detail}"))


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")

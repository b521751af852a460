"""The kill matrix as a picture: mutants across, properties down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: Endings that matplotlib has a writer for here.
ENDINGS = (".svg", ".png", ".pdf")
_COLOURS = ("#f2f2f2", "#7fb2d9", "#1d4e79")


def check(path: Path) -> None:
    """Raises ValueError for another ending, ImportError without matplotlib."""
    if path.suffix not in ENDINGS:
        raise ValueError(f"--plot {path}: end it in {', '.join(ENDINGS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError(
            "--plot needs matplotlib: pip install 'refmoe[plots]'"
        ) from None


def draw(matrix: dict[str, Any] | None, path: Path) -> None:
    """Dark where a property alone kills a mutant, light where others do too.

    Raises ValueError where there is no matrix.
    """
    if matrix is None:
        raise ValueError(
            "--plot shows the part matrix: make it, or read it with --json"
        )
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    mutants = sorted(matrix["mutants"], key=lambda one: (one["kind"], one["group"]))
    used = [
        one["property"] for one in matrix["properties"] if one["cases"] or one["kills"]
    ]
    grid = [
        [
            (name in one["killed_by"]) * (1 + (len(one["killed_by"]) == 1))
            for one in mutants
        ]
        for name in used
    ]
    figure = Figure(figsize=(0.07 * len(mutants) + 3, 0.17 * len(used) + 1.5))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.14, 0.16, 0.84, 0.76))
    axes.imshow(grid, aspect="auto", cmap=ListedColormap(_COLOURS), vmin=0, vmax=2)
    axes.set_yticks(range(len(used)), used, fontsize=6)
    groups = [one["group"] or one["kind"] for one in mutants]
    firsts = [n for n, name in enumerate(groups) if n == 0 or groups[n - 1] != name]
    axes.set_xticks(firsts, [groups[n] for n in firsts], fontsize=6, rotation=60)
    for first in firsts[1:]:
        axes.axvline(first - 0.5, color="white", linewidth=1.5)
    axes.set_title(
        f"{matrix['killed']} of {matrix['of']} mutants killed, "
        f"{matrix['cases_of_each_property']} cases of each property; dark: by it alone",
        fontsize=8,
    )
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)

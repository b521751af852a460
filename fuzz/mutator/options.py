"""The options of `python -m fuzz.mutator`."""

from __future__ import annotations

import argparse
from pathlib import Path

#: Cases of a default cell, of any other cell, and hearings of each law.
PROFILES = {"quick": (2, 1, 1), "ci": (4, 1, 2), "deep": (16, 4, 8)}


def parsed(words: list[str] | None, about: str | None) -> argparse.Namespace:
    """The options in `words`, of the command line where they are None."""
    parser = argparse.ArgumentParser(prog="fuzz.mutator", description=about)
    parser.add_argument("do", choices=("run", "compile", "show"))
    parser.add_argument("--json", type=Path, required=True, help="the report")
    parser.add_argument("--count", type=int, default=450, help="how many mutants")
    parser.add_argument("--among", type=int, default=450, help="size of the sample")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--minutes", type=float, default=5.0, help="time in all")
    parser.add_argument("-n", type=int, default=8, help="processes")
    parser.add_argument(
        "--deadline", type=float, default=20.0, help="of one case, in s"
    )
    parser.add_argument(
        "--patience", type=float, default=30.0, help="of a mutant, in s"
    )
    parser.add_argument("--profile", choices=PROFILES, default="deep")
    parser.add_argument("--op", nargs="*", default=[], help="only these ops")
    parser.add_argument("--file", nargs="*", help="only mutants of these files")
    parser.add_argument("--operator", nargs="*", help="only mutants by these operators")
    parser.add_argument("--again", nargs="*", default=[], help="statuses to run again")
    parser.add_argument("--emulate", action="store_true", help="without a GPU")
    parser.add_argument("--matrix", action="store_true", help="go on after a kill")
    parser.add_argument("--doubt", action="store_true", help="run equivalent ones too")
    options = parser.parse_args(words)
    options.among = max(options.among, options.count)
    return options

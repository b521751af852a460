"""`python -m fuzz [CAMPAIGN ...] [OPTIONS]` in a checkout: the project's campaigns.

Options are those of `refmoe fuzz`, as `--minutes 30 -n 8`. Findings go into
`ledger.toml`, their smallest cases into `corpus`; states stay out of the repository.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    """Run the campaigns that are named first, or all; returns the worst status."""
    known = tomllib.loads((HERE / "campaigns.toml").read_text())
    first = next((n for n, one in enumerate(arguments) if one.startswith("-")), None)
    names, options = arguments[:first], arguments[first:] if first is not None else []
    for name in names:
        if name not in known:
            print(f"fuzz: no campaign is called {name!r}; there are {', '.join(known)}")
            return 2
    worst = 0
    for name in names or known:
        print(f"{name}:", flush=True)
        given = known[name]
        command = [
            sys.executable, "-m", "refmoe", "fuzz", *given["ports"],
            *given.get("options", ()), "--state", str(HERE / "state" / name),
            "--ledger", str(HERE / "ledger.toml"), "--corpus", str(HERE / "corpus"),
            *options,
        ]  # fmt: skip
        status = subprocess.run(command, cwd=HERE.parent, check=False).returncode
        worst = max(worst, status)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

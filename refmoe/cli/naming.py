"""`refmoe names`: everything that a port and a case can name."""

from __future__ import annotations

from oracle.layouts import LAYOUTS
from oracle.numerics import ACCUMULATORS, PRESETS
from refmoe.case import format_names, model_names
from refmoe.laws import LAWS
from refmoe.port import ATTRIBUTES
from refmoe.protocol import OPS
from refmoe.regimes import REGIMES
from refmoe.report import terminal


def run_names() -> None:
    """`refmoe names`: what a port may have, then what cases are made of."""
    console = terminal.console_for()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say("ops of a port:")
    for operation in OPS.values():
        say(f"  {operation}")
        keywords = f"; by name: {', '.join(operation.keywords)}"
        say(f"      {operation.about}{keywords if operation.keywords else ''}")
    say("what else it may have or declare:")
    for name, about in ATTRIBUTES.items():
        say(f"  {name}: {about}")
    say(f"numerics: {' '.join(PRESETS)}")
    say(f"accumulators: fp32 {' '.join(ACCUMULATORS)}")
    say("layouts:")
    for layout in LAYOUTS.values():
        say(f"  {layout.name} of {layout.takes}: {layout.used_by}")
    for entry in REGIMES.values():
        say(f"regime {entry.name}: {entry.about}")
        say(f"    shows: {entry.bug}")
    for law in LAWS.values():
        say(f"law {law.name}: {law.about}")
    say(f"models: {' '.join(model_names())}")
    say(f"formats: {' '.join(format_names())}")

"""A score in words, for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Part = dict[str, Any]
#: Names of mutants that are shown of a list.
_SHOWN = 6


def lines(parts: dict[str, Part]) -> Iterator[str]:
    """Every part that is there, in words.

    Raises ValueError for a part that another version, or a hand, has written.
    """
    for name, part in parts.items():
        try:
            made = part["made"]
            words = [f"  {line}" for line in _WORDS[name](part)]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            reason = f"{type(error).__name__} {error}"
            raise ValueError(
                f"score: the part {name} cannot be read ({reason}); make it again"
            ) from None
        yield f"{name} ({made['date']}, commit {made['commit'] or '-'})"
        yield from words


def _kills(part: Part) -> Iterator[str]:
    yield (
        f"{part['killed']} of {part['of']} mutants killed by a verification each, up "
        f"to its first finding, in {part['made']['seconds']} s by {part['processes']} "
        "processes"
    )
    if part["survivors"] or part["never ran"]:
        left = ", ".join(part["survivors"]) or "none"
        yield f"survived: {left}; {part['never ran']} never ran"


def _matrix(part: Part) -> Iterator[str]:
    each = part["cases_of_each_property"]
    yield f"{part['killed']} of {part['of']} mutants killed, {each} cases a property"
    for one in part["mutants"]:
        if one["status"] != "killed":
            yield f"{one['status']}: {one['name']} ({one['kind']}, {one['op']})"
        elif one["late"]:
            yield f"killed by a whole verification only: {one['name']}"
    head = ("property", "cases", "kills", "in one", "alone of its kind", "of all", "")
    rows: list[tuple[object, ...]] = [head]
    for one in part["properties"]:
        alone, of_kind = one["alone"], one["alone_of_kind"]
        rows.append(
            (
                one["property"], one["cases"], one["kills"], one["in_one_case"],
                len(of_kind), len(alone), _some(alone or of_kind),
            )
        )  # fmt: skip
    yield from _aligned(rows)
    for key, title in (("alone", "all"), ("alone_of_kind", "their kind")):
        idle = (one["property"] for one in part["properties"] if not one[key])
        yield f"kill nothing alone of {title}: {', '.join(idle) or 'none'}"
    shown = Counter(
        stage
        for one in part["mutants"]
        for stage in {stage for _, stage in one["killed_by"].values()}
    )
    stages = (f"{stage} {count}" for stage, count in shown.most_common())
    yield f"mutants shown at: {', '.join(stages)}"
    for key, title in (("group", "classes"), ("op", "ops"), ("at", "stages")):
        table = part["coverage"][key]
        counts = (f"{name or '-'} {k}/{n}" for name, (k, n) in table.items())
        yield f"{len(table)} {title}: {', '.join(counts)}"


def _power(part: Part) -> Iterator[str]:
    rows = [("op", "format", "in", *(f"{n} cases" for n in _counts(part)))]
    for one in part["scales"]:
        errors = (percent(error) for error in one["smallest"].values())
        rows.append((one["op"], one["format"], one["extent"], *errors))
    yield "smallest relative error of scales that is caught:"
    yield from _aligned(rows)
    one = part["elements"]
    yield (
        f"single elements of {one['of']} moved just out of their bound: "
        f"{one['caught']} of {one['moved']} caught"
    )
    yield "what is rejected, on one output: the whole scaled, or elements zero"
    yield from _aligned(
        [("rule", "scaled by", "elements")]
        + [
            (name, percent(least["scale"]), least["elements"] or "never")
            for name, least in part["rejected"].items()
        ]
    )  # fmt: skip


def _rules(part: Part) -> Iterator[str]:
    yield from _aligned(
        [("rule", "kills", "false", "source")]
        + [
            (
                row["rule"], f"{row['killed']}/{row['mistakes']}",
                f"{row['failed']}/{row['honest']}", row["source"],
            )
            for row in part["rules"]
        ]
    )  # fmt: skip


def _cuda(part: Part) -> Iterator[str]:
    seen, of = part["seen"], part["of"]
    share = f", {100 * seen / of:.1f} %" if of else ""
    yield f"{seen} of {of} seen, of those that ran and are not equivalent{share}"
    devices = (f"{count} on {name or '-'}" for name, count in part["devices"].items())
    yield f"seen or survived: {', '.join(devices)}"
    yield ", ".join(f"{count} {status}" for status, count in part["statuses"].items())
    for title, key in (("killed by", "killed_by"), ("the only one on record", "alone")):
        order = sorted(part[key].items(), key=lambda item: -item[1])
        yield f"{title}: {', '.join(f'{name} {count}' for name, count in order)}"
    for one in part["survivors"]:
        yield f"survived {one['id']}: {one['reason'] or 'unexplained'}"


def _honest(part: Part) -> Iterator[str]:
    high = part["interval_95"][1]
    yield (
        f"{len(part['alarms'])} alarms in {part['decided']} cases of {part['ports']} "
        f"ports; rate below {high:.2g} at 95 % ({part['method']})"
    )
    yield ", ".join(f"{kind} {count}" for kind, count in part["verdicts"].items())
    yield from part["alarms"]


_WORDS: dict[str, Callable[[Part], Iterator[str]]] = {
    "kills": _kills, "matrix": _matrix, "power": _power, "rules": _rules, "cuda": _cuda,
    "honest": _honest,
}  # fmt: skip


def status(parts: dict[str, Part]) -> int:
    """1 where a mutant survived or an honest port was called wrong, else 0."""
    mutants = parts.get("matrix", {}).get("mutants", ())
    survived = any(one["status"] == "survived" for one in mutants)
    survived = survived or bool(parts.get("kills", {}).get("survivors"))
    return int(survived or bool(parts.get("honest", {}).get("alarms")))


def _aligned(rows: Sequence[Sequence[object]]) -> Iterator[str]:
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _counts(part: Part) -> list[str]:
    return list(part["scales"][0]["smallest"]) if part["scales"] else []


def percent(error: float | None) -> str:
    return "never" if error is None else f"{100 * error:.2g} %"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

"""A run as one HTML page that needs nothing else: table, findings, pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from refmoe.report import svg
from refmoe.report.about import versions
from refmoe.report.coverage import Reach, coverage
from refmoe.report.markup import Child, Markup, joined, tag
from refmoe.report.run import Run, departures
from refmoe.report.style import CSS
from refmoe.report.table import Row, rows
from refmoe.report.text import lines
from refmoe.verdict import MEANING, Finding, Kind

#: Findings that are shown in full; the certificate holds all of them.
SHOWN = 100
_SENTENCES = {
    0: ("good", "No failures."),
    1: ("bad", "There are failures."),
    3: ("idle", "Nothing was executed."),
}
#: Where the links at the top lead.
_PLACES = (
    ("findings", "Findings"), ("coverage", "What ran where"), ("table", "Results")
)  # fmt: skip


def page(run: Run) -> str:
    """The page; whatever comes from ports and cases is escaped."""
    title = f"refmoe: {', '.join(port.name for port in run.ports)}"
    head = tag(
        "head", tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title), tag("style", Markup(CSS)),
    )  # fmt: skip
    body = tag(
        "body", tag("header", tag("h1", title), _verdict(run)),
        tag("nav", *(tag("a", words, href=f"#{name}") for name, words in _PLACES)),
        tag("main", *_sections(run)),
    )  # fmt: skip
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _verdict(run: Run) -> Markup:
    kind, sentence = _SENTENCES[run.status]
    executed = sum(record.kind.executed for record in run.records)
    idle = len(run.records) - executed
    words = f"{sentence} {executed} cases executed, {idle} not run."
    return tag("p", words, class_=f"verdict {kind}")


def _sections(run: Run) -> Iterator[Markup]:
    yield _section("run", "The run", _about(run))
    yield _section("findings", "Findings", *_findings(run))
    departed = departures(run.records)
    if departed:
        note = tag("p", "What the port declares, but not what the model defines.")
        shown = [_finding(finding) for finding in departed[:SHOWN]]
        yield _section("deviations", "Deviations", note, *shown)
    if run.known:
        yield _section("known", "Known failures", _known(run))
    yield _section("coverage", "What ran where", _coverage(run))
    yield _section("table", "Results", *_tables(run))


def _section(name: str, title: str, *children: Child) -> Markup:
    return tag("section", tag("h2", title, id=name), *children, aria_labelledby=name)


def _about(run: Run) -> Markup:
    counts = Counter(record.kind for record in run.records)
    tally = ", ".join(f"{counts[kind]} {kind}" for kind in Kind if counts[kind])
    words = ", ".join(f"{name} {text}" for name, text in versions().items())
    entries = [("versions", words), ("seed", str(run.seed))]
    entries += [("time", f"{run.seconds:.1f} s"), ("verdicts", tally or "none")]
    for port in run.ports:
        entries += [("port", str(port)), ("device", port.machine)]
    return tag("dl", *((tag("dt", name), tag("dd", text)) for name, text in entries))


def _findings(run: Run) -> Iterator[Markup]:
    found = run.findings
    kinds = dict.fromkeys(finding.verdict.kind for finding in found)
    yield tag("p", "None." if not found else f"{len(found)}, the severest first.")
    yield tag("dl", *((tag("dt", k), tag("dd", MEANING[k])) for k in kinds))
    if any(finding.exhibit for finding in found):
        yield _legend()
    for finding in found[:SHOWN]:
        yield _finding(finding)
    if len(found) > SHOWN:
        yield tag("p", f"... and {len(found) - SHOWN} more; the certificate has all.")


def _finding(finding: Finding) -> Markup:
    head, *rest = lines(finding)
    return tag(
        "article", tag("h3", head),
        tag("pre", "\n".join(line.removeprefix("  ") for line in rest)),
        _pictures(finding),
    )  # fmt: skip


def _pictures(finding: Finding) -> Markup | None:
    exhibit = finding.exhibit
    if exhibit is None:
        return None
    drawn = []
    if exhibit.grid:
        drawn.append(svg.heat_map(exhibit))
    if exhibit.ladder:
        drawn.append(svg.ladder(exhibit.ladder))
    if exhibit.load:
        drawn.append(svg.load_chart(exhibit.load))
    return tag("div", *drawn, class_="pictures")


def _legend() -> Markup:
    """What the colours of the heat maps stand for."""
    edges = [f"{edge:g}" for edge in svg.EDGES]
    names = ["0", *(f"to {edge}" for edge in edges[1:]), f"beyond {edges[-1]}"]
    swatches = [
        (tag("svg", tag("rect", class_=f"h{n}", width=12, height=12), width=12,
             height=12, aria_hidden="true"), f" {name} ")
        for n, name in enumerate(names)
    ]  # fmt: skip
    return tag("p", "error / bound: ", *swatches)


def _known(run: Run) -> Markup:
    body = []
    for standing in run.standings:
        if standing.stale:
            state = tag("td", "no longer fails: remove it", class_="bad")
        elif standing.used:
            state = tag("td", f"{standing.failed} failed as expected", class_="warn")
        else:
            state = tag("td", "not used", class_="idle")
        body.append(tag("tr", tag("td", str(standing.entry)), state))
    return _grid("Entries of the file of known failures", ("entry", "state"), body)


def _coverage(run: Run) -> Markup:
    archs, reached = coverage(run)
    ports = len(run.ports) > 1
    body = [
        tag(
            "tr", tag("td", reach.port) if ports else None,
            *(tag("td", word) for word in (reach.op, reach.subject, reach.form)),
            *(_reach(reach, arch) for arch in archs),
        )
        for reach in reached
    ]  # fmt: skip
    names = (*(("port",) if ports else ()), "op", "of", "format", *archs)
    caption = "Executed cases of each op, model or format, and GPU architecture"
    return _grid(caption, names, body)


def _reach(reach: Reach, arch: str) -> Markup:
    ran, failed = reach.ran(arch), reach.failed(arch)
    if failed:
        return tag("td", f"{ran} ran, {failed} failed", class_="bad")
    return tag("td", f"{ran} ran" if ran else "never", class_="ran" if ran else "idle")


def _tables(run: Run) -> Iterator[Markup]:
    names = (
        "op", "of", "inputs", "cases", "equal", "within", "failed", "not run",
        "error / bound: median, largest", "other",
    )  # fmt: skip
    for port in run.ports:
        own = [record for record in run.records if record.port == port.name]
        yield _grid(port.name, names, [_row(row) for row in rows(own)])


def _row(row: Row) -> Markup:
    numbers = row.cases, row.kinds[Kind.BIT_EQUAL], row.kinds[Kind.WITHIN]
    failed, other = row.failures, row.others
    return tag(
        "tr", *(tag("td", word) for word in (row.op, row.subject, row.inputs)),
        *(tag("td", number or "-", class_="number") for number in numbers),
        tag("td", failed or "-", class_="bad" if failed else "number"),
        tag("td", row.not_run or "-", class_="idle" if row.not_run else "number"),
        tag("td", row.error),
        tag("td", other, class_="warn" if other else None),
    )  # fmt: skip


def _grid(caption: str, names: Sequence[str], body: Sequence[Markup]) -> Markup:
    head = tag("tr", *(tag("th", name, scope="col") for name in names))
    table = tag(
        "table", tag("caption", caption), tag("thead", head), tag("tbody", joined(body))
    )
    return tag("div", table, class_="wide", tabindex="0")

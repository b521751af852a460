"""The page: one file, well-formed, nothing from outside, no text taken for markup."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from refmoe.exhibit import Exhibit, Rung
from refmoe.expected import Entry
from refmoe.judge import Judgement
from refmoe.plan import Cell
from refmoe.report.about import About
from refmoe.report.markup import Markup, tag
from refmoe.report.page import page
from refmoe.report.run import Run
from refmoe.report.svg import BEYOND, EDGES, heat_map, ladder, level, load_chart
from refmoe.verdict import Kind, Verdict
from refmoe.verify import Record

HOSTILE = "</pre><script>alert(1)</script>&\"'\x00<img src=x onerror=y>"
LINE = "moe model=gpt-oss-120b T=4 H=64 I=32 E=8 k=4 regime=randn seed=0"
PORT = About("mine", ("moe",), "Numerics()", True, hardware="H100", arch="sm_90")
VOID = ("meta", "br", "col")


class Checked(HTMLParser):
    """Elements as they nest; any end tag that does not match is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def names(self) -> set[str]:
        return {name for name, _ in self.seen}


def record(kind: Kind, *, exhibit: Exhibit | None = None, detail: str = "") -> Record:
    verdict = Verdict(
        kind, "out", (0, 1), 2.0, 1.0, 1.5, 3.0, 0.1, "bf16", detail=detail
    )
    cell = Cell("moe", "gpt-oss-120b", "randn")
    judgement = Judgement(verdict, (verdict,) if kind.executed else ())
    return Record("mine", cell, LINE, (), judgement, 0.1, exhibit=exhibit)


EXHIBIT = Exhibit(
    "out", (4, 64), ((0.0, 0.5, 0.5, 3.0), (0.0, math.inf, math.nan, 1.0)),
    (Rung("gate_up", Verdict(Kind.WITHIN, "gate_up", ratio=0.5)), Rung("down"),
     Rung("out", Verdict(Kind.WRONG, "out", ratio=3.0))),
    (3, 0, 5),
)  # fmt: skip


def test_page_shows_what_the_terminal_shows_and_the_pictures() -> None:
    run = Run([PORT], [record(Kind.WRONG, exhibit=EXHIBIT), record(Kind.WITHIN)], 7, 1)
    seen = Checked(page(run))
    assert "There are failures. 2 cases executed, 0 not run." in seen.text
    assert "WRONG moe[mine]  out[0,1] = 0x4000 (2)  want 0x3f80..0x3fc0" in seen.text
    assert f"refmoe repro '{LINE}' mine" in seen.text
    assert "largest inf" in seen.text
    assert "first divergence: out" in seen.text
    assert "8 rows, most 5, 1 experts without any" in seen.text
    assert "mxfp4/bf16" in seen.text
    assert [name for name, _ in seen.seen].count("figure") == 3


def test_page_needs_nothing_from_outside() -> None:
    """Catches the font, script or picture that an offline reader would miss."""
    text = page(Run([PORT], [record(Kind.WRONG, exhibit=EXHIBIT)]))
    seen = Checked(text)
    assert not seen.names() & {"script", "link", "img", "iframe", "object", "use"}
    links = {v for _, a in seen.seen for k, v in a.items() if k in ("src", "href")}
    assert links == {"#findings", "#coverage", "#table"}
    assert "@import" not in text
    assert not re.search(r"url\(|https?://", text)


@pytest.mark.parametrize("where", ["port", "case", "log", "reason", "tap"])
def test_page_escapes_what_it_did_not_write(where: str) -> None:
    port, found = PORT, record(Kind.WRONG, exhibit=EXHIBIT)
    known: list[Entry] = []
    if where == "port":
        port = replace(port, name=HOSTILE, version=HOSTILE, hardware=HOSTILE)
        found = replace(found, port=HOSTILE)
    elif where == "case":
        cell = Cell("moe", HOSTILE, HOSTILE)
        found = replace(found, cell=cell, log=HOSTILE, tactic=HOSTILE)
    elif where == "log":
        verdict = Verdict(Kind.CRASHED, detail=HOSTILE)
        found = replace(found, judgement=Judgement(verdict), log=HOSTILE)
    elif where == "reason":
        known = [Entry(HOSTILE, {"op": HOSTILE}, (Kind.WRONG,), HOSTILE)]
    else:
        found = replace(found, exhibit=replace(EXHIBIT, tap=HOSTILE))
    seen = Checked(page(Run([port], [found], known=known)))
    assert not seen.names() & {"script", "img"}
    assert "alert(1)" in seen.text or where == "tap"
    assert all("onerror" not in attributes for _, attributes in seen.seen)


@pytest.mark.parametrize(
    "records, sentence",
    [
        ([], "Nothing was executed. 0 cases executed, 0 not run."),
        ([record(Kind.REFUSED)], "Nothing was executed. 0 cases executed, 1 not run."),
        ([record(Kind.WITHIN)], "No failures. 1 cases executed, 0 not run."),
    ],
)
def test_page_without_findings_says_so(records: list[Record], sentence: str) -> None:
    seen = Checked(page(Run([PORT], records)))
    assert sentence in seen.text
    assert "None." in seen.text


def test_page_names_ops_and_archs_that_never_ran() -> None:
    seen = Checked(page(Run([PORT], [record(Kind.WITHIN)])))
    for word in ("1 ran", "never", "sm_90", "sm_100", "omni_experts"):
        assert word in seen.text


def test_page_has_names_for_those_who_do_not_see_it() -> None:
    seen = Checked(page(Run([PORT], [record(Kind.WRONG, exhibit=EXHIBIT)])))
    pictures = [a for name, a in seen.seen if name == "svg"]
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in pictures)
    assert ("html", {"lang": "en"}) in seen.seen
    assert {"caption", "main", "header", "figcaption"} <= seen.names()
    assert all(a["scope"] == "col" for name, a in seen.seen if name == "th")


def test_page_has_a_style_in_light_and_dark_for_every_class_it_uses() -> None:
    text = page(Run([PORT], [record(Kind.WRONG, exhibit=EXHIBIT)]))
    assert "prefers-color-scheme: dark" in text
    style = text[text.index("<style>") : text.index("</style>")]
    for number in range(len(EDGES) + 1):
        assert style.count(f"--h{number}:") == 2
        assert f".h{number} {{" in style


@pytest.mark.parametrize(
    "ratio, want", [(0.0, 0), (0.05, 1), (1.0, BEYOND - 1), (1.0001, BEYOND),
                    (1e9, 9), (math.inf, 9), (math.nan, 9)]
)  # fmt: skip
def test_heat_map_tells_inside_from_beyond_the_bound(ratio: float, want: int) -> None:
    assert level(ratio) == want


def test_heat_map_draws_equal_neighbours_once() -> None:
    flat = Exhibit("out", (64, 64), ((0.0,) * 64,) * 64)
    assert heat_map(flat).count("<rect") == 64
    assert heat_map(EXHIBIT).count("<rect") == 6


def test_load_chart_has_few_bars_however_many_experts() -> None:
    assert load_chart([1] * 512).count("<rect") == 64
    assert "512 rows, most 1, 0 experts without any" in load_chart([1] * 512)


def test_ladder_says_which_stages_are_not_exposed() -> None:
    text = ladder(EXHIBIT.ladder)
    assert "not exposed" in text
    assert "WRONG, first divergence" in text


def test_tag_escapes_text_and_leaves_markup() -> None:
    inner = tag("b", "<", title='"')
    assert inner == '<b title="&quot;">&lt;</b>'
    assert tag("p", [inner, None, "&"], 1) == f"<p>{inner}&amp;1</p>"
    assert tag("p", Markup("<br>")) == "<p><br></p>"


def test_page_holds_no_control_characters(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    found = record(Kind.WRONG, detail="\x00\x1b\ud800 end")
    file.write_text(page(Run([PORT], [found])))
    assert "\ufffd\ufffd\ufffd end" in file.read_text()

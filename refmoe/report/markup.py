"""HTML and SVG from elements: every text is escaped unless it is itself an element."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Elements that have no end tag.
_VOID = ("meta", "br", "col")
#: What no document may hold: controls, surrogates, the two non-characters.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"
)


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | int | float | Iterable["Child"] | None


def tag(
    name: str, /, *children: Child, **attributes: str | int | float | None
) -> Markup:
    """One element. `class_` and `aria_label` stand for class and aria-label.

    >>> tag("p", "1 < 2", class_="note")
    '<p class="note">1 &lt; 2</p>'
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escaped(str(value))}"')
    head = " ".join(words)
    if name in _VOID:
        return Markup(f"<{head}>")
    return Markup(f"<{head}>{joined(children)}</{name}>")


def joined(children: Child) -> Markup:
    """Elements as they are, everything else escaped, None left out."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, str | int | float):
        return Markup(escaped(str(children)))
    return Markup("".join(joined(child) for child in children))


def escaped(text: str) -> str:
    """`text` with nothing left in it that a parser could take for markup.

    Characters that no document may hold become U+FFFD.
    """
    text = printable(text)
    for character, entity in (
        ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")
    ):  # fmt: skip
        text = text.replace(character, entity)
    return text


def printable(text: str) -> str:
    """`text` with U+FFFD for every character that no document may hold."""
    return _FORBIDDEN.sub("\ufffd", text)
